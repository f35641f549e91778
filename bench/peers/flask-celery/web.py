"""The web server: a request's job gets its row, then its message."""

from uuid import uuid4

from flask import Flask, abort, request
from psycopg.types.json import Jsonb

from tasks import pool, predict

app = Flask(__name__)
pool.open()


@app.post("/predictions")
def submit():
    job, value = str(uuid4()), request.get_json()["input"]
    with pool.connection() as connection:
        connection.execute("INSERT INTO jobs (id, status, input) VALUES (%s, 'queued', %s)", (job, Jsonb(value)))
    predict.delay(job, value)
    return {"id": job}, 202


@app.get("/predictions/<uuid:job>")
def show(job):
    with pool.connection() as connection:
        row = connection.execute("SELECT status, output FROM jobs WHERE id = %s", (job,)).fetchone()
    if row is None:
        abort(404)
    return {"id": str(job), "status": row[0], "output": row[1]}
