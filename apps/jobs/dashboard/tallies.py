"""The counts of `TaskMinute`, added up over some minutes, and what they say: rates, and times by percentile."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.db import connection

from apps.jobs.metrics.counts import BOUNDS

COUNTERS = ("started", "succeeded", "failed", "retried")


def _sums() -> str:
    """One sum for each counter, and an array of sums for each histogram: PostgreSQL adds arrays up no other way."""
    buckets = range(1, len(BOUNDS) + 2)
    arrays = [
        f"ARRAY[{', '.join(f'sum({name}[{bucket}])::bigint' for bucket in buckets)}]"
        for name in ("wait_buckets", "run_buckets")
    ]
    return ", ".join([*(f"sum({counter})::bigint" for counter in COUNTERS), "sum(run_seconds)", *arrays])


SUMS = _sums()


@dataclass(frozen=True)
class Tally:
    """failed: jobs that ended badly. retried: attempts that did, of jobs that are tried again."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    run_seconds: float = 0.0
    waits: Sequence[int] = ()
    runs: Sequence[int] = ()

    @property
    def failure_rate(self) -> float | None:
        """Of the jobs that ended; None if none has."""
        return _share(self.failed, self.succeeded + self.failed)

    @property
    def retry_rate(self) -> float | None:
        """Of the attempts that are over; None if none is."""
        return _share(self.retried, self.succeeded + self.failed + self.retried)

    @property
    def mean_run(self) -> float | None:
        return self.run_seconds / self.succeeded if self.succeeded else None

    def wait(self, share: float) -> float | None:
        return percentile(self.waits, share)

    def run(self, share: float) -> float | None:
        return percentile(self.runs, share)

    @property
    def slow_run(self) -> float | None:
        return self.run(0.95)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def percentile(buckets: Sequence[int], share: float) -> float | None:
    """Seconds within which `share` of them were done, evenly spread within a bucket; the last bound for all above it.

    None if there were none at all.
    """
    wanted = share * sum(buckets)
    if not wanted:
        return None
    for (lower, upper), number in zip(pairwise((0.0, *BOUNDS)), buckets, strict=False):
        if number >= wanted:
            return lower + (upper - lower) * wanted / number
        wanted -= number
    return BOUNDS[-1]


def tallies_by(key: str, since: datetime) -> dict[Any, Tally]:
    """Of the minutes from `since` on. `key` is a column."""
    query = f"SELECT {key}, {SUMS} FROM jobs_taskminute WHERE minute >= %s GROUP BY 1"
    with connection.cursor() as cursor:
        cursor.execute(query, [since])
        return {row[0]: Tally(*row[1:]) for row in cursor.fetchall()}


def tallies_by_both(key: str, other: str, since: datetime, *other_values: Any) -> tuple[dict[Any, Tally], ...]:
    """By the one and by the other, in one look: a day's histograms take longer to read than to add up once more.

    `other` may be an expression that takes `other_values`. Neither may be NULL.
    """
    query = f"""
        SELECT {key}, {other}, {SUMS} FROM jobs_taskminute WHERE minute >= %s GROUP BY GROUPING SETS ((1), (2))
    """
    by_key: dict[Any, Tally] = {}
    by_other: dict[Any, Tally] = {}
    with connection.cursor() as cursor:
        cursor.execute(query, [*other_values, since])
        for one, another, *sums in cursor.fetchall():
            tallies, found = (by_key, one) if another is None else (by_other, another)
            tallies[found] = Tally(*sums)
    return by_key, by_other
