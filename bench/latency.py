"""How long after its commit a job starts, when the worker has nothing else to do.

The clock starts when the producer has the commit's answer, and stops in the first line of the job's body.
"""

import random
import time
from statistics import quantiles
from typing import Any

from bench import plain, stamps, tasks
from bench.fleet import Fleet
from bench.rounds import Measure, Sizes

# Long enough for the job before to be over and done with; random, so as not to fall in step with anybody's polling.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.05


def measure(fleet: Fleet, sizes: Sizes) -> list[Measure]:
    by_plain, by_nightshift = [], []
    with fleet.plain.consuming(), fleet.nightshift.consuming():
        for task in (plain.stamp, tasks.stamp) * 2:
            milliseconds_to_start(task)  # each process of both pools has its connections now
        for _ in range(sizes.started):
            by_plain.append(milliseconds_to_start(plain.stamp))
            by_nightshift.append(milliseconds_to_start(tasks.stamp))
    return [
        Measure("commit → start, p50", "ms", by_plain, by_nightshift, limit=15.0),
        Measure("commit → start, p99", "ms", [p99(by_plain)], [p99(by_nightshift)]),
    ]


def milliseconds_to_start(task: Any) -> float:
    time.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
    task.delay()
    committed = time.time()
    return (stamps.wait_for_stamp() - committed) * 1000


def p99(figures: list[float]) -> float:
    return quantiles(figures, n=100, method="inclusive")[98]
