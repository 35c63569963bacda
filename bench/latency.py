"""How long after its commit a job starts, when the worker has nothing else to do.

The clock starts when the producer has the commit's answer, and stops in the first line of the job's body.
"""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench import plain, stamps, tasks
from bench.rounds import Sizes
from bench.sides import BASE, DURABLE, Side, working

# Long enough for the job before to be over and done with; random, so as not to fall in step with anybody's polling.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.05
# Both processes of a pool have made their connections by then.
WARM_UP = 10


def measure(sides: Mapping[str, Side], sizes: Sizes, logs: Path) -> dict[str, list[float]]:
    """Milliseconds, in turns."""
    asked = {BASE: plain.stamp, DURABLE: tasks.stamp}
    found: dict[str, list[float]] = {name: [] for name in asked}
    with working(sides[BASE], logs), working(sides[DURABLE], logs):
        for _ in range(WARM_UP + sizes.started):
            for name, task in asked.items():
                found[name].append(milliseconds_to_start(task))
    return {name: figures[WARM_UP:] for name, figures in found.items()}


def milliseconds_to_start(task: Any) -> float:
    time.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
    task.delay()
    committed = time.time()
    return (stamps.wait_for_stamp() - committed) * 1000


def p99(figures: Sequence[float]) -> float:
    return quantiles(figures, n=100, method="inclusive")[98]
