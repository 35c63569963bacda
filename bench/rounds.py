"""Rounds that take turns, so that whatever else the machine does meanwhile hits all sides alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Sizes:
    enqueue_rounds: int
    enqueued: int  # by one `.delay()` each
    enqueued_together: int  # by one `delay_many`
    drain_rounds: int
    drained: int  # without a body
    written: int  # each with one write; the two together fit into the relay's window
    started: int  # one at a time, on an idle worker
    idle_seconds: float
    console_jobs: int  # that have ended; a tenth of them as dead letters
    console_rounds: int
    ended_jobs: int  # over which the ledger must be as quick as an empty one …
    waiting_jobs: int  # … with so many behind, or for later
    growth_rounds: int


# Some ten minutes in all on two cores. Several short rounds and not one long one: whoever else uses the machine comes
# and goes within seconds, and a median shrugs off the rounds that were hit.
FULL = Sizes(
    enqueue_rounds=5,
    enqueued=300,
    enqueued_together=5_000,
    drain_rounds=3,
    drained=3_000,
    written=1_500,
    started=200,
    idle_seconds=10.0,
    console_jobs=1_000_000,
    console_rounds=20,
    ended_jobs=1_000_000,
    waiting_jobs=100_000,
    growth_rounds=3,
)
# Shows that everything works, and measures nothing.
QUICK = Sizes(
    enqueue_rounds=1,
    enqueued=10,
    enqueued_together=100,
    drain_rounds=1,
    drained=40,
    written=20,
    started=3,
    idle_seconds=0.5,
    console_jobs=2_000,
    console_rounds=1,
    ended_jobs=1_000,
    waiting_jobs=500,
    growth_rounds=1,
)


def alternate(rounds: int, sides: Sequence[Callable[[], Figure]]) -> list[list[Figure]]:
    """One figure a round from each side, in turns."""
    figures = [[take() for take in sides] for _ in range(rounds)]
    return [list(column) for column in zip(*figures, strict=True)]
