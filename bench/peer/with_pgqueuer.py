import asyncio
import os

import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.stamps import stamp_now


async def connect() -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(os.environ["BENCH_PEER_DATABASE"], autocommit=True)


def work() -> None:
    asyncio.run(_work())


async def _work() -> None:
    async with await connect() as connection:
        queuer = PgQueuer(PsycopgDriver(connection))

        @queuer.entrypoint("nothing")
        async def nothing(job: Job) -> None:
            pass

        @queuer.entrypoint("stamp")
        async def stamp(job: Job) -> None:  # noqa: ARG001 - pgqueuer passes it by position
            stamp_now()

        await queuer.run(batch_size=100)


def enqueue(jobs: int) -> None:
    asyncio.run(_enqueue(jobs))


async def _enqueue(jobs: int) -> None:
    names = ["stamp", *["nothing"] * jobs, "stamp"]
    async with await connect() as connection:
        await Queries(PsycopgDriver(connection)).enqueue(names, [None] * len(names), [0] * len(names))
