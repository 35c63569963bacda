import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench import written
from bench.stamps import stamp_now

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_PEER_URL"]))


@dramatiq.actor
def nothing() -> None:
    pass


@dramatiq.actor
def write() -> None:
    written.write()


@dramatiq.actor
def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        TASKS[task].send()


together = one_by_one  # its groups send one by one, too
