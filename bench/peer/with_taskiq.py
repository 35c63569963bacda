import os

from taskiq_redis import RedisStreamBroker

from bench.peer import loop
from bench.stamps import stamp_now

broker = RedisStreamBroker(os.environ["BENCH_PEER_URL"])
started: list[bool] = []


@broker.task
async def nothing() -> None:
    pass


@broker.task
async def write() -> None:
    await loop.write()


@broker.task
async def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def one_by_one(task: str, jobs: int) -> None:
    loop.run(_send(task, jobs))


together = one_by_one


async def _send(task: str, jobs: int) -> None:
    if not started:
        await broker.startup()
        started.append(True)
    for _ in range(jobs):
        await TASKS[task].kiq()
