import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.stamps import stamp_now

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_PEER_URL"]))


@dramatiq.actor
def nothing() -> None:
    pass


@dramatiq.actor
def stamp() -> None:
    stamp_now()


def enqueue(jobs: int) -> None:
    for actor in (stamp, *[nothing] * jobs, stamp):
        actor.send()
