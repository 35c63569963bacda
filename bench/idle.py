"""What processes that have nothing to do cost."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from apps.local.children import family_of
from bench import stamps
from bench.rounds import Sizes
from bench.sides import BASE, DURABLE, Side, cpu_seconds, forget_everything, working

MEGABYTE = 1024 * 1024
# After its first job a worker still talks to its neighbours and looks for changes (seconds).
SETTLE = 3.0


@dataclass(frozen=True)
class Idle:
    name: str
    cpu: float  # per cent of a core
    memory: float  # megabytes; what two processes share counts half for each
    started: float | None = None  # milliseconds after its commit, the median of jobs asked for one at a time


def measure(sides: Mapping[str, Side], sizes: Sizes, logs: Path) -> list[Idle]:
    forget_everything()
    for name in (BASE, DURABLE):
        sides[name].fill([("stamp", 1)])
    with working(sides[BASE], logs) as plain, working(sides[DURABLE], logs) as (relay, worker):
        for _ in range(2):
            stamps.wait_for_stamp()
        groups = {"plain Celery's worker": plain, "Nightshift's worker": [worker], "its relay": [relay]}
        time.sleep(min(SETTLE, sizes.idle_seconds))
        return look(groups, sizes.idle_seconds)


def measure_peers(sides: Sequence[Side], sizes: Sizes, logs: Path) -> list[Idle]:
    """All at once, since none of them does anything; then each is asked for a few jobs."""
    forget_everything()
    with ExitStack() as stack:
        up = {side.name: stack.enter_context(working(side, logs)) for side in sides}
        for side in sides:
            side.fill([("stamp", 1)])
        for _ in sides:
            stamps.wait_for_stamp()
        time.sleep(min(SETTLE, sizes.idle_seconds))
        found = {each.name: each for each in look(up, sizes.idle_seconds)}
        return [replace(found[side.name], started=_median_start(side, sizes.started // 4)) for side in sides]


def _median_start(side: Side, jobs: int) -> float | None:
    try:
        return median(side.starts(jobs)) if side.starts and jobs else None
    except subprocess.CalledProcessError:  # its log says why; a release of theirs must not cost the table
        return None


def look(groups: Mapping[str, Sequence[int]], seconds: float) -> list[Idle]:
    before = {name: cpu_seconds(pids) for name, pids in groups.items()}
    time.sleep(seconds)
    return [
        Idle(name, (cpu_seconds(pids) - before[name]) * 100 / seconds, memory(pids)) for name, pids in groups.items()
    ]


def memory(pids: Sequence[int]) -> float:
    return float(sum(member.memory_full_info().pss for pid in pids for member in family_of(pid)) / MEGABYTE)
