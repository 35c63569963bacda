import os

import redis
import rq

from bench import written
from bench.stamps import stamp_now

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["BENCH_PEER_URL"]))


def nothing() -> None:
    pass


def write() -> None:
    written.write()


def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        queue.enqueue(TASKS[task])


def together(task: str, jobs: int) -> None:
    queue.enqueue_many([rq.Queue.prepare_data(TASKS[task]) for _ in range(jobs)])
