"""Limits for the whole fleet: how often, and how many at once.

Problem. A supplier that allows 30 calls a minute counts all of ours. Celery's `rate_limit="30/m"` is counted by each
worker's main process for itself: ten workers make 300 calls, and jobs that wait for their turn fill the worker's
prefetch, in front of jobs of other tasks. Nothing in Celery limits how many run at once.

Guarantee. `Rate` is counted in Redis, over a window that moves, for every process that names the same key and rate;
without Redis, in a row of PostgreSQL. A
slot of `Running` is a running row of the ledger: it is taken under a lock, and set free by the same UPDATE that ends
the job or lets it go, so a dead worker's slot comes back with its lease. Who is refused is snoozed, which costs no
retry and no worker waits; so is everybody while Redis cannot be asked: a limit that cannot be counted is not passed.

Not guaranteed. Redis that was wiped has forgotten the last window, and clocks that differ by a second blur it by one.
Which of those that wait comes next is chance. A frozen worker whose lease ran out goes on with its body until its next
checkpoint, beside the job that took its slot.
"""

import random
import time
from dataclasses import dataclass
from functools import cache
from itertools import count
from types import TracebackType
from uuid import UUID

import limits
from celery import current_task
from django.conf import settings
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry

from apps.jobs import connections, ledger, windows
from apps.jobs.ids import job_id_of
from apps.jobs.snooze import Snooze

# Redis answers in a millisecond; a frozen one must not hold the worker.
REDIS_TIMEOUT = 2.0
# Long enough not to be a burden on a Redis that is coming back, short enough for a person not to notice.
WITHOUT_REDIS = 5.0
# A slot is free when some job ends, and nobody knows when: look again after about this long.
FULL = 3.0


@cache
def _limiter(url: str) -> MovingWindowRateLimiter:
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT,
        socket_connect_timeout=REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 1),  # one more, for a connection that Redis has closed meanwhile
    )
    return MovingWindowRateLimiter(RedisStorage(url, connection_pool=pool, wrap_exceptions=True))


class Rate:
    """`Rate("supplier", "30/minute").acquire()`. Raises ValueError for a rate that cannot be read."""

    def __init__(self, key: str, rate: str) -> None:
        self.key = key
        self.limit = limits.parse(rate)

    def acquire(self) -> None:
        """Take one of the window's places, or raise Snooze until one is free."""
        seconds = self._hit_in_redis() if settings.REDIS_URL else self._hit_in_postgresql()
        if seconds is not None:
            raise Snooze(max(0.0, seconds) + self._jitter(), f"{self.key!r} is limited to {self.limit}")

    def _hit_in_redis(self) -> float | None:
        """None if a place was taken, else in how many seconds one is free."""
        limiter = _limiter(settings.REDIS_URL)
        try:
            if limiter.hit(self.limit, self.key):
                return None
            return limiter.get_window_stats(self.limit, self.key).reset_time - time.time()
        except StorageError as exc:
            raise Snooze(_spread(WITHOUT_REDIS), f"the limit of {self.key!r} cannot be counted: {exc}") from exc

    def _hit_in_postgresql(self) -> float | None:
        name = self.limit.key_for(self.key)
        return connections.patiently(lambda: windows.take(name, self.limit.amount, self.limit.get_expiry()))

    def _jitter(self) -> float:
        """Up to the time of two places: those that are refused together shall not all come back together."""
        return random.uniform(0, 2 * self.limit.get_expiry() / self.limit.amount)


@dataclass(frozen=True)
class Running:
    """`with Running("supplier", at_most=4): …` in a durable task. One slot a job, not within a transaction."""

    key: str
    at_most: int

    def __enter__(self) -> "Running":
        """Raises Snooze if it is full; RuntimeError where there is no running row to count, or in a transaction."""
        job_id, token = _attempt()
        tries = count()
        if not connections.patiently(
            lambda: ledger.take_slot(job_id, token, self.key, self.at_most, again=next(tries) > 0)
        ):
            raise Snooze(_spread(FULL), f"{self.key!r} is limited to {self.at_most} at once")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        job_id, token = _attempt()
        connections.patiently(lambda: ledger.leave_slot(job_id, token))


def _attempt() -> tuple[UUID, int]:
    """The job that runs here, and the token that proves it."""
    request = current_task.request if current_task else None
    if request is None or request.get("token") is None:
        raise RuntimeError("Running(…) counts rows of the ledger: use it in a durable task that a worker runs.")
    return job_id_of(request.id), request.token


def _spread(seconds: float) -> float:
    return random.uniform(0.5, 1.5) * seconds
