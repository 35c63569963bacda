import os

import redis
import rq

from bench.stamps import stamp_now

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["BENCH_PEER_URL"]))


def nothing() -> None:
    pass


def stamp() -> None:
    stamp_now()


def enqueue(jobs: int) -> None:
    for task in (stamp, *[nothing] * jobs, stamp):
        queue.enqueue(task)
