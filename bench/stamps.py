"""The moment in which a job's body starts, told through Redis to the process that waits for it."""

import os
import time
from functools import cache

import redis

LIST = "bench:stamps"
# A worker that takes this long for one job is not slow but gone.
PATIENCE = 120


class NeverStarted(Exception):
    """A job did not start; the worker's log says why."""


@cache
def _client() -> redis.Redis:
    # By default redis-py gives up on a BLPOP before its own time is over.
    return redis.Redis.from_url(os.environ["BENCH_STAMPS_URL"], socket_timeout=PATIENCE + 5)


def stamp_now() -> None:
    _client().rpush(LIST, repr(time.time()))


def wait_for_stamp() -> float:
    """Unix time."""
    stamp = _client().blpop([LIST], timeout=PATIENCE)
    if stamp is None:
        raise NeverStarted(f"No job started within {PATIENCE} seconds.")
    return float(stamp[1])
