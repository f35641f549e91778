"""The Celery worker: its settings and its one task."""

import os

import orjson
from celery import Celery
from celery.signals import worker_init, worker_ready
from psycopg.types.json import Jsonb, set_json_dumps
from psycopg_pool import ConnectionPool

import model

app = Celery("tasks", broker=os.environ["REDIS_URL"])
app.conf.update(
    # At least once: a message is acknowledged when its row is committed, and goes to another worker when this one is lost.
    task_acks_late=True,
    broker_transport_options={"visibility_timeout": 60},
    # The row is the result, so there is no other.
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    broker_pool_limit=16,
    broker_connection_retry_on_startup=True,
    # Else Celery logs what is printed.
    worker_redirect_stdouts=False,
)

set_json_dumps(lambda value: orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
# Each process opens its own, after it was forked.
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=8, max_size=8, kwargs={"autocommit": True}, open=False)


@worker_init.connect
def connect(**_):
    pool.open()
    model.load()


@worker_ready.connect
def announce(**_):
    # In one piece: two workers share the pipe.
    os.write(1, b"up\n")


@app.task
def predict(job, value):
    answer = model.answer(value)
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET status = 'succeeded', output = %s, completed_at = now() WHERE id = %s", (Jsonb(answer), job)
        )
