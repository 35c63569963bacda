"""Which fault strikes when: a value, so that the same seed is the same plan.

Faults that would undo each other (a restart of a server that is stopped) share a *resource*, and one resource has one
fault at a time. Different resources are struck together as chance will have it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

# A pace that two cores keep up with while processes are killed and start again under them.
JOBS_A_SECOND = 12.0
# The fullest resource needs this long to meet each of its faults once.
SHORTEST = 95.0


@dataclass(frozen=True)
class Kind:
    """What a plan has to know of a fault: what it occupies, and for how many seconds (with what follows from it).

    `spared` are resources that must not be struck meanwhile. A plan does not see to that; whoever carries it out does.
    """

    resource: str
    seconds: float
    spared: frozenset[str] = frozenset()

    @property
    def occupied(self) -> frozenset[str]:
        return self.spared | {self.resource}


@dataclass(frozen=True)
class Strike:
    """`at` counts from the start of the producers. `choice` (0 to 1) picks the victim, where there are several."""

    at: float
    fault: str
    choice: float


@dataclass(frozen=True)
class Plan:
    seed: int
    jobs: int
    seconds: float
    strikes: tuple[Strike, ...]


def make_plan(seed: int, jobs: int, kinds: Mapping[str, Kind], shortest: float | None = None) -> Plan:
    """Each fault at least once, and as often more as its resource has time for."""
    rng = Random(seed)
    by_resource = defaultdict(list)
    for name in sorted(kinds):
        by_resource[kinds[name].resource].append(name)
    needed = max((sum(kinds[name].seconds for name in names) for names in by_resource.values()), default=0.0)
    seconds = max(SHORTEST if shortest is None else shortest, jobs / JOBS_A_SECOND, needed * 1.2)
    strikes = [
        strike for resource in sorted(by_resource) for strike in _timeline(rng, by_resource[resource], kinds, seconds)
    ]
    return Plan(seed, jobs, seconds, tuple(sorted(strikes, key=lambda strike: strike.at)))


def _timeline(rng: Random, names: list[str], kinds: Mapping[str, Kind], seconds: float) -> list[Strike]:
    """Rounds of all of a resource's faults in random order, with the time that is left spread between them."""
    once = sum(kinds[name].seconds for name in names)
    # A quarter of the time stays free, so that strikes on different resources meet in ever new ways.
    rounds = max(1, int(seconds * 0.75 / once))
    order = [name for _ in range(rounds) for name in rng.sample(names, len(names))]
    gaps = [rng.random() for _ in range(len(order) + 1)]
    free = seconds - once * rounds
    strikes, now = [], 0.0
    for name, gap in zip(order, gaps, strict=False):
        now += free * gap / sum(gaps)
        strikes.append(Strike(round(now, 2), name, rng.random()))
        now += kinds[name].seconds
    return strikes
