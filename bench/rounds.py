"""Rounds that take turns, so that whatever else the machine does meanwhile hits both sides alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Sizes:
    enqueue_rounds: int
    enqueued: int  # by one `.delay()` each
    enqueued_together: int  # by one `delay_many`
    drain_rounds: int
    drained: int
    started: int  # one at a time, on an idle worker
    console_jobs: int  # that have ended; a tenth of them as dead letters
    console_rounds: int
    limit_rounds: int
    peer_rounds: int
    peer_share: float  # of the jobs that each peer is given, by its speed


# Under three minutes in all on two cores. Many short rounds and not a few long ones: whoever else uses the machine
# comes and goes within seconds, and a median shrugs off the rounds that were hit.
FULL = Sizes(
    enqueue_rounds=9,
    enqueued=200,
    enqueued_together=5_000,
    drain_rounds=9,
    drained=400,
    started=200,
    console_jobs=1_000_000,
    console_rounds=20,
    limit_rounds=5,
    peer_rounds=5,
    peer_share=1.0,
)
# Shows that everything works, and measures nothing.
QUICK = Sizes(
    enqueue_rounds=1,
    enqueued=10,
    enqueued_together=100,
    drain_rounds=1,
    drained=40,
    started=3,
    console_jobs=2_000,
    console_rounds=1,
    limit_rounds=1,
    peer_rounds=1,
    peer_share=0.05,
)

# PostgreSQL's driver and planner settle on a statement after five times, in each of two processes.
WARM_UP = 40


@dataclass(frozen=True)
class Measure:
    """One line of the table; each list holds one figure a round.

    `ratio_target` is in times plain Celery's, `limit` in the unit itself.
    """

    name: str
    unit: str
    plain: Sequence[float]
    nightshift: Sequence[float]
    ratio_target: float | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float:
        """Of the medians: no round of one side belongs to a certain round of the other."""
        return median(self.nightshift) / median(self.plain)

    @property
    def is_met(self) -> bool | None:
        """None if nothing is asked of it."""
        if self.ratio_target is not None:
            return self.ratio >= self.ratio_target
        return median(self.nightshift) <= self.limit if self.limit is not None else None


def alternate(rounds: int, *sides: tuple[Callable[[int], Figure], int]) -> list[list[Figure]]:
    """One figure a round from each side, in turns; a side is what takes a number of jobs, and that number.

    Connections, caches and prepared statements warm up in a small round that is not counted.
    """
    for take, jobs in sides:
        take(min(jobs, WARM_UP))
    figures = [[take(jobs) for take, jobs in sides] for _ in range(rounds)]
    return [list(column) for column in zip(*figures, strict=True)]
