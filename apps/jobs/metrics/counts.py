"""Counts: what happened to jobs, by minute, task and queue.

Problem. A counter in a process's memory is lost with it, is one of many under a pool of processes, and cannot be read
by the process that is asked for it. An exporter that listens to Celery's events misses what happens while it is down.

Guarantee. Whatever the pool, a worker's main process counts what it sees of a job (`apps.jobs.metrics.meter`), and a
relay what it sends and rescues. Every two seconds each adds what is new to rows of PostgreSQL, and once more at a clean
stop; without the database it keeps what it has. `TaskMinute` has the minutes, for charts. `TaskTotal` never falls, for
Prometheus.

Not guaranteed. A process that is killed takes its last two seconds of counts along. A commit whose answer is lost
counts two seconds twice. What must be exact is the ledger's rows.
"""

import logging
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from celery import bootsteps, current_app
from celery.signals import worker_shutdown
from django.conf import settings
from django.db import Error as DatabaseTrouble
from django.db import connection, transaction

from apps.jobs import connections

logger = logging.getLogger(__name__)

# Fresh enough for a chart, and two statements for whatever happened meanwhile.
WRITE_EVERY = 2.0
# All processes write to the same rows, from the loops that do their work. One that was frozen as it wrote, or a person
# at a prompt of psql, would stop every worker and every relay.
LOCK_TIMEOUT = "1s"

# Upper bounds of the buckets (seconds) of waits and run times, from milliseconds to an hour, each two or three times
# the one before. A bound that is changed makes nonsense of the rows that are there.
BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)

COUNTERS = "sent received started succeeded failed retried revoked rescued duplicates snoozed".split()
HISTOGRAMS = "wait_seconds wait_buckets run_seconds run_buckets".split()

# A label from outside must not make rows without end.
UNKNOWN = "unknown"


@dataclass
class Histogram:
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def observe(self, seconds: float, times: int = 1) -> None:
        self.seconds += seconds * times
        self.buckets[bisect_left(BOUNDS, seconds)] += times

    def add(self, other: "Histogram") -> None:
        self.seconds += other.seconds
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]


@dataclass
class Tally:
    """What happened to one task in one queue, since it was last written down."""

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    wait: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)

    def add(self, other: "Tally") -> None:
        for counter, number in other.counters.items():
            self.counters[counter] += number
        self.wait.add(other.wait)
        self.run.add(other.run)

    def as_columns(self) -> list[Any]:
        return [*self.counters.values(), self.wait.seconds, self.wait.buckets, self.run.seconds, self.run.buckets]


class Tallies:
    """Of this process. Pools of threads count from many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str], Tally] = {}
        self.written_at = 0.0

    def count(self, counter: str, task: str, queue: str, number: int = 1) -> None:
        with self._lock:
            self._of(task, queue).counters[counter] += number

    def observe(self, histogram: str, task: str, queue: str, seconds: float) -> None:
        """histogram: "wait" or "run". Clocks of two machines differ: a wait below zero was none."""
        with self._lock:
            getattr(self._of(task, queue), histogram).observe(max(0.0, seconds))

    def _of(self, task: str, queue: str) -> Tally:
        """Called five times for each job: what is known already costs one look."""
        known = self._tallies.get((task, queue))
        return known or self._tallies.setdefault(_labels(task, queue), Tally())

    def take(self) -> dict[tuple[str, str], Tally]:
        with self._lock:
            taken, self._tallies = self._tallies, {}
        return taken

    def give_back(self, taken: dict[tuple[str, str], Tally]) -> None:
        with self._lock:
            for key, tally in taken.items():
                self._tallies.setdefault(key, Tally()).add(tally)


def _labels(task: str, queue: str) -> tuple[str, str]:
    return (
        task if task in current_app.tasks else UNKNOWN,
        queue if queue in settings.JOBS_QUEUES else UNKNOWN,
    )


_tallies = Tallies()
count = _tallies.count
observe = _tallies.observe


def write_if_due() -> None:
    """For a process with a loop of its own. Never raises: counts are kept until the database is back."""
    if time.monotonic() >= _tallies.written_at + WRITE_EVERY:
        write()


def write() -> None:
    _tallies.written_at = time.monotonic()
    taken = _tallies.take()
    if not taken:
        return
    try:
        connections.refresh()
        _add(taken)
    except DatabaseTrouble as exc:  # whatever it is: also while a deploy migrates a table
        logger.warning("Counts wait for the database: %s", str(exc).strip())
        _tallies.give_back(taken)
        connection.close()


# PostgreSQL adds up: any number of processes write to the same row.
SUMS = ", ".join(
    [f"{column} = counted.{column} + excluded.{column}" for column in [*COUNTERS, "wait_seconds", "run_seconds"]]
    + [
        f"{column} = (SELECT array_agg(mine + theirs ORDER BY place) FROM"
        f" unnest(counted.{column}, excluded.{column}) WITH ORDINALITY AS both_of_them (mine, theirs, place))"
        for column in ("wait_buckets", "run_buckets")
    ]
)
COLUMNS = ", ".join(["task", "queue", *COUNTERS, *HISTOGRAMS])
VALUES = ", ".join(["%s"] * (2 + len(COUNTERS) + len(HISTOGRAMS)))
ADD_TO_TOTALS = f"""
    INSERT INTO jobs_tasktotal AS counted ({COLUMNS}) VALUES ({VALUES})
    ON CONFLICT (task, queue) DO UPDATE SET {SUMS}
"""
ADD_TO_MINUTES = f"""
    INSERT INTO jobs_taskminute AS counted (minute, {COLUMNS})
    VALUES (date_trunc('minute', statement_timestamp()), {VALUES})
    ON CONFLICT (minute, task, queue) DO UPDATE SET {SUMS}
"""


def _add(tallies: dict[tuple[str, str], Tally]) -> None:
    """In one order everywhere, so that two processes wait for each other and never both at once."""
    rows = [[*key, *tally.as_columns()] for key, tally in sorted(tallies.items())]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.executemany(ADD_TO_TOTALS, rows)
        cursor.executemany(ADD_TO_MINUTES, rows)


class CountsStep(bootsteps.StartStopStep):
    """Part of the worker, as the leases are."""

    requires = ("celery.worker.components:Timer",)

    def start(self, parent: Any) -> None:
        parent.timer.call_repeatedly(WRITE_EVERY, write)
        # When the pool has ended its last job: steps are stopped before.
        worker_shutdown.connect(_write_at_the_end)


def _write_at_the_end(**_: Any) -> None:
    write()
