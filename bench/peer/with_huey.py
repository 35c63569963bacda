import os

from huey import RedisHuey

from bench.stamps import stamp_now

huey = RedisHuey("bench", url=os.environ["BENCH_PEER_URL"], results=False)


@huey.task()
def nothing() -> None:
    pass


@huey.task()
def stamp() -> None:
    stamp_now()


def enqueue(jobs: int) -> None:
    for task in (stamp, *[nothing] * jobs, stamp):
        task()
