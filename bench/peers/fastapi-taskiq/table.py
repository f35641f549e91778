"""Creates the table where it is missing."""

import asyncio
import os
from pathlib import Path

import asyncpg


async def create():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute(Path("../table.sql").read_text())
    await connection.close()


asyncio.run(create())
