"""The taskiq worker: its broker and its one task."""

import os

import asyncpg
import orjson
from taskiq import TaskiqEvents
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(
    os.environ["REDIS_URL"],
    # At least once: a message is acknowledged when its row is committed, and those of a lost worker are claimed after a minute.
    # A worker killed while it claims leaves the lock on that behind, hence the time-out.
    consumer_id="0",
    idle_timeout=60_000,
    unacknowledged_lock_timeout=60,
    # Acknowledged messages stay in the stream, so something must shorten it.
    maxlen=1_000_000,
    max_connection_pool_size=64,
).with_serializer(ORJSONSerializer())


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state):
    state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=16, max_size=16)
    # In one piece: workers share the pipe.
    os.write(1, b"up\n")


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def disconnect(state):
    await state.pool.close()


@broker.task
async def predict(job, value):
    await broker.state.pool.execute(
        "UPDATE jobs SET status = 'succeeded', output = $2, completed_at = now() WHERE id = $1",
        job,
        orjson.dumps(value).decode(),
    )
