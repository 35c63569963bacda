import asyncio
import os

import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.peer import loop
from bench.stamps import stamp_now

opened: list[Queries] = []


async def connect() -> PsycopgDriver:
    address = os.environ["BENCH_PEER_DATABASE"]
    return PsycopgDriver(await psycopg.AsyncConnection.connect(address, autocommit=True))


def work() -> None:
    asyncio.run(_work())


async def _work() -> None:
    queuer = PgQueuer(await connect())

    @queuer.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        pass

    @queuer.entrypoint("write")
    async def write(job: Job) -> None:  # noqa: ARG001 - pgqueuer passes it by position
        await loop.write()

    @queuer.entrypoint("stamp")
    async def stamp(job: Job) -> None:  # noqa: ARG001
        stamp_now()

    await queuer.run(batch_size=100)


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        loop.run(_enqueue(task, 1))


def together(task: str, jobs: int) -> None:
    loop.run(_enqueue(task, jobs))


async def _enqueue(task: str, jobs: int) -> None:
    if not opened:
        opened.append(Queries(await connect()))
    await opened[0].enqueue([task] * jobs, [None] * jobs, [0] * jobs)
