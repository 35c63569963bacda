"""How long after its commit a job starts, when the worker has nothing else to do.

The clock starts when the producer has the commit's answer, and stops in the first line of the job's body.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles

from bench import plain, tasks
from bench.rounds import Sizes
from bench.sides import BASE, DURABLE, Side, working
from bench.stamps import WARM_UP, milliseconds_to_start


def measure(sides: Mapping[str, Side], sizes: Sizes, logs: Path) -> dict[str, list[float]]:
    """Milliseconds, in turns."""
    asked = {BASE: plain.stamp, DURABLE: tasks.stamp}
    found: dict[str, list[float]] = {name: [] for name in asked}
    with working(sides[BASE], logs), working(sides[DURABLE], logs):
        for _ in range(WARM_UP + sizes.started):
            for name, task in asked.items():
                found[name].append(milliseconds_to_start(task.delay))
    return {name: figures[WARM_UP:] for name, figures in found.items()}


def p99(figures: Sequence[float]) -> float:
    return quantiles(figures, n=100, method="inclusive")[98]
