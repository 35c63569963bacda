"""What processes that have nothing to do cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def look(groups: Mapping[str, Sequence[int]], seconds: float) -> list[Idle]:
    before = {name: cpu_seconds(pids) for name, pids in groups.items()}
    time.sleep(seconds)
    return [
        Idle(name, (cpu_seconds(pids) - before[name]) * 100 / seconds, memory(pids)) for name, pids in groups.items()
    ]


def memory(pids: Sequence[int]) -> float:
    return float(sum(member.memory_full_info().pss for pid in pids for member in family_of(pid)) / MEGABYTE)
