"""How fast two processes get through jobs that wait: of those that do nothing, and of those with one write.

A job that tells the time stands before, between and behind them; the rate is that of the jobs between two.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import stamps
from bench.rounds import Sizes, alternate
from bench.sides import Side, cpu_seconds, forget_everything, working


@dataclass(frozen=True)
class Drained:
    nothing: float  # jobs a second
    write: float
    cpu: float  # milliseconds of processor for a job that does nothing, of the workers and their pools


def measure(sides: Sequence[Side], sizes: Sizes, logs: Path) -> dict[str, list[Drained]]:
    """One figure a round."""
    rounds = alternate(sizes.drain_rounds, [partial(drain, side, sizes, logs) for side in sides])
    return {side.name: [drained for drained in found if drained] for side, found in zip(sides, rounds, strict=True)}


def drain(side: Side, sizes: Sizes, logs: Path) -> Drained | None:
    """None if nothing came of it: a release of theirs that does not work here must not cost the table."""
    nothing, write = (max(1, int(jobs * side.share)) for jobs in (sizes.drained, sizes.written))
    forget_everything()
    side.fill([("stamp", 1), ("nothing", nothing), ("stamp", 1), ("write", write), ("stamp", 1)])
    with suppress(stamps.NeverStarted), working(side, logs) as pids:
        began, before = stamps.wait_for_stamp(), cpu_seconds(pids)
        between, after = stamps.wait_for_stamp(), cpu_seconds(pids)
        ended = stamps.wait_for_stamp()
        return Drained(nothing / (between - began), write / (ended - between), (after - before) * 1000 / nothing)
    return None
