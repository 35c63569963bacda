import asyncio
import os

from taskiq_redis import RedisStreamBroker

from bench.stamps import stamp_now

broker = RedisStreamBroker(os.environ["BENCH_PEER_URL"])


@broker.task
async def nothing() -> None:
    pass


@broker.task
async def stamp() -> None:
    stamp_now()


def enqueue(jobs: int) -> None:
    asyncio.run(_enqueue(jobs))


async def _enqueue(jobs: int) -> None:
    await broker.startup()
    for task in (stamp, *[nothing] * jobs, stamp):
        await task.kiq()
    await broker.shutdown()
