"""What a fault is, and what several of them need.

A fault is a generator, so that several can be under way at once and the run can look after its processes meanwhile: it
strikes, yields the seconds until it wants to go on, undoes what has to be undone, and returns what it hit. `choice` (0
to 1) picks the victim.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from django.db import close_old_connections

from apps.local.chaos import mix
from apps.local.chaos.journal import Promise
from apps.local.chaos.plan import Kind
from apps.local.chaos.producer import record
from apps.local.chaos.world import World, until
from tasks import lab

T = TypeVar("T")

# A worker needs two or three seconds of processor time to start.
RESTART_SECONDS = 4.0
A_LOOK = 0.1
# What was asked for is at work in this time, unless another strike is in the way…
WAIT_FOR_WORK = 3.0
# …which lasts for so long at most.
KEEP_ASKING = 25.0


@dataclass(frozen=True)
class Hit:
    """What a strike met: so many of these."""

    number: int
    what: str


Course = Generator[float, None, Hit]


@dataclass(frozen=True)
class Fault:
    kind: Kind
    strike: Callable[[World, float], Course]


FAULTS: dict[str, Fault] = {}
DESK = ThreadPoolExecutor(max_workers=1, thread_name_prefix="desk")


def fault(
    name: str, *, resource: str, seconds: float, spared: Iterable[str] = ()
) -> Callable[[Callable[[World, float], Course]], None]:
    def register(strike: Callable[[World, float], Course]) -> None:
        FAULTS[name] = Fault(Kind(resource, seconds, frozenset(spared)), strike)

    return register


def pick(choice: float, things: Sequence[T]) -> T:
    return things[int(choice * len(things))]


def until_met(world: World, look: Callable[[], T], wish: Callable[[], list[Promise]]) -> Generator[float, None, T]:
    """A strike that meets nothing shows nothing: ask for jobs, again and again, until there is something to strike.

    Returns what `look` has seen; nothing, if it was in vain.
    """
    asked_often_enough = until(lambda: False, KEEP_ASKING)
    seen = look()
    while not seen and not asked_often_enough():
        yield from ask_for(world, wish)
        waited_long_enough = until(lambda: False, WAIT_FOR_WORK)
        while not seen and not waited_long_enough():
            yield A_LOOK
            seen = look()
    return seen


def until_busy(world: World, worker: str) -> Generator[float, None, int]:
    """Returns how many jobs it runs."""
    queue = "io" if worker == "worker-io" else "default"
    return (
        yield from until_met(
            world, lambda: world.running_on(worker), lambda: [_two_seconds_of_work(queue) for _ in range(4)]
        )
    )


def _two_seconds_of_work(queue: str) -> Promise:
    return mix.promise(lab.lab_sleep.apply_async(kwargs={"seconds": 2}, queue=queue), "lab_sleep")


def ask_for(world: World, wish: Callable[[], list[Promise]]) -> Generator[float, None, list[Promise]]:
    """Record jobs in a thread: another strike of this very thread may hold a lock that the INSERT waits for."""
    return (yield from at_the_desk(lambda: record_now(world, wish)))


def at_the_desk(do: Callable[[], T]) -> Generator[float, None, T]:
    done = DESK.submit(do)
    while not done.done():
        yield A_LOOK
    return done.result()


def record_now(world: World, wish: Callable[[], list[Promise]]) -> list[Promise]:
    # The connection may be one to a database that was restarted since.
    close_old_connections()
    return record(world.journal, wish)
