"""The moment in which a job's body starts, told through Redis to the process that waits for it."""

import os
import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import redis

LIST = "bench:stamps"
# A worker that takes this long for one job is not slow but gone.
PATIENCE = 120


# Long enough for the job before to be over and done with; random, so as not to fall in step with anybody's polling.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.05
# Both processes of a pool have made their connections by then.
WARM_UP = 10


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


def milliseconds_to_start(ask: Callable[[], Any]) -> float:
    """From the commit's answer to the first line of the body. `ask` asks for one job that stamps."""
    time.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
    ask()
    committed = time.time()
    return (wait_for_stamp() - committed) * 1000
