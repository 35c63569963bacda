import os

from huey import RedisHuey

from bench import written
from bench.stamps import stamp_now

huey = RedisHuey("bench", url=os.environ["BENCH_PEER_URL"], results=False)


@huey.task()
def nothing() -> None:
    pass


@huey.task()
def write() -> None:
    written.write()


@huey.task()
def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        TASKS[task]()


together = one_by_one
