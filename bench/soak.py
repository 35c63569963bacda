"""Whether the system holds steady: minutes at a part of the rate that it can do, with a look at its sizes now and then.

Ended jobs are deleted after two minutes instead of after a week, so that the ledger would stay as large as it is; what
grows all the same is a leak, or bloat.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from apps.jobs import retention
from apps.jobs.backpressure import QueueFull
from bench import drain, idle, tasks
from bench.ours import own_sides
from bench.rounds import Sizes
from bench.sides import UNSENT, forget_everything, working

LOAD = 0.7
KEEP = timedelta(minutes=2)
# As a busy site would: many small transactions.
ASK_EVERY = 0.05
SWEEP_EVERY = 10.0
# At most so many lines, and none more often (seconds).
LINES, LOOK_EVERY = 60, 10.0
COLUMNS = "time rate waiting worker relay table indexes live dead vacuums".split()
UNITS = "s jobs/s jobs MB MB MB MB rows rows autovacuum".split()

WAITING = "SELECT count(*) FROM jobs_job WHERE state IN ('queued', 'sent', 'running')"
ENDED = "SELECT coalesce(sum(succeeded), 0)::int FROM jobs_tasktotal"
SIZES = """
    SELECT pg_table_size(relid) / 1048576, pg_indexes_size(relid) / 1048576, n_live_tup, n_dead_tup, autovacuum_count
    FROM pg_stat_user_tables WHERE relname = 'jobs_job'
"""


def run(sizes: Sizes, logs: Path, minutes: float) -> None:
    """Prints a line now and then."""
    [side] = [side for side in own_sides() if side.name == UNSENT]
    found = [drained.nothing for _ in range(sizes.drain_rounds) if (drained := drain.drain(side, sizes, logs))]
    if not found:
        raise RuntimeError(f"Nothing was drained (see {logs}).")
    rate = LOAD * median(found)
    print(f"{rate:,.0f} jobs a second, {LOAD:.0%} of what was just measured, for {minutes:g} minutes.")
    print(line(COLUMNS), line(UNITS), sep="\n")
    forget_everything()
    with working(side, logs) as (relay, worker):
        Soak(rate, {"worker": worker, "relay": relay}).run(minutes * 60)


class Soak:
    def __init__(self, rate: float, pids: Mapping[str, int]) -> None:
        self.rate = rate
        self.pids = pids
        self.asked = 0
        [self.ended] = query(ENDED)
        self.looked_at = 0.0

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        next_sweep = next_look = 0.0
        while (now := time.monotonic() - began) < seconds:
            self.ask(now)
            if now >= next_sweep:
                next_sweep += SWEEP_EVERY
                retention.sweep(timezone.now() + settings.JOBS_KEEP_SUCCEEDED - KEEP)
            if now >= next_look:
                next_look += max(LOOK_EVERY, seconds / LINES)
                self.look(now)
            time.sleep(ASK_EVERY)
        self.look(now)

    def ask(self, now: float) -> None:
        due = int(self.rate * now) - self.asked
        with suppress(QueueFull):  # the machine has become slower than it was measured: see the column "waiting"
            tasks.nothing.delay_many([{}] * due)
        self.asked += due

    def look(self, now: float) -> None:
        [ended] = query(ENDED)
        rate = (ended - self.ended) / max(1.0, now - self.looked_at)
        self.ended, self.looked_at = ended, now
        memory = [idle.memory([pid]) for pid in self.pids.values()]
        print(line([f"{figure:,.0f}" for figure in (now, rate, *query(WAITING), *memory, *query(SIZES))]), flush=True)


def query(statement: str) -> Sequence[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchone())


def line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(10) for cell in cells)
