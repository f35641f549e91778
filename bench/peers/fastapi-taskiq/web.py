"""The web server: a request's job gets its row, then its message."""

import os
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from tasks import broker, predict


class Submission(BaseModel):
    input: Any


class Accepted(BaseModel):
    id: UUID


@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=16, max_size=16) as app.state.pool:
        await broker.startup()
        # In one piece: workers share the pipe.
        os.write(1, b"up\n")
        yield
        await broker.shutdown()


app = FastAPI(lifespan=lifespan)


@app.post("/predictions", status_code=202)
async def submit(submission: Submission) -> Accepted:
    job = uuid4()
    await app.state.pool.execute(
        "INSERT INTO jobs (id, status, input) VALUES ($1, 'queued', $2)", job, orjson.dumps(submission.input).decode()
    )
    await predict.kiq(str(job), submission.input)
    return Accepted(id=job)


@app.get("/predictions/{job}")
async def show(job: UUID):
    row = await app.state.pool.fetchrow("SELECT status, output FROM jobs WHERE id = $1", job)
    if row is None:
        raise HTTPException(404)
    return {"id": job, "status": row["status"], "output": row["output"] and orjson.loads(row["output"])}
