"""What happens to workers."""

import signal
from collections.abc import Generator
from contextlib import suppress

import psutil

from apps.local.chaos import mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.faults.strike import (
    A_LOOK,
    RESTART_SECONDS,
    Course,
    Hit,
    fault,
    pick,
    until_busy,
    until_met,
)
from apps.local.chaos.journal import Promise
from apps.local.chaos.world import LOW, PREFORK, WORKERS, World, until
from tasks import lab

# The lease (4 s), the rescue (1 s) and the new start of a job elsewhere, on a machine that others use too.
FROZEN_SECONDS = 15.0
# The grace (5 s), handing back what still runs, and Celery's own end, on a machine that others use too.
STOP_SECONDS = 20.0


@fault("kill -9 of a worker and its pool", resource="workers", seconds=6)
def kill_worker(world: World, choice: float) -> Course:
    worker = pick(choice, WORKERS)
    running = yield from until_busy(world, worker)
    world.fleet.kill(worker)
    yield RESTART_SECONDS
    return Hit(running, "running jobs")


@fault("kill -9 of a worker's main process", resource="workers", seconds=6)
def kill_main_process(world: World, choice: float) -> Course:
    """Its pool lives on for a moment and may end its jobs: nobody renews their leases."""
    worker = pick(choice, WORKERS)
    running = yield from until_busy(world, worker)
    world.fleet.strike(worker)
    world.fleet.send(worker, signal.SIGKILL)
    yield RESTART_SECONDS
    return Hit(running, "running jobs")


@fault("kill -9 of all pool children", resource="workers", seconds=3)
def kill_children(world: World, choice: float) -> Course:
    """Of a busy worker: one whose whole pool dies while it starts gives up, by Celery's design."""
    worker = pick(choice, PREFORK)
    running = yield from until_busy(world, worker)
    for child in world.fleet.children(worker) if running else ():
        with suppress(psutil.NoSuchProcess):
            child.kill()
    yield 1.0
    return Hit(running, "running jobs")


@fault("SIGTERM of a worker under load", resource="workers", seconds=10)
def terminate_worker(world: World, choice: float) -> Course:
    """Of a busy worker: one that still starts knows no other end than the signal's own."""
    worker = pick(choice, WORKERS)
    running = yield from until_busy(world, worker)
    if running:
        yield from until_stopped(world, worker)
    return Hit(running, "running jobs")


def until_stopped(world: World, worker: str) -> Generator[float, None, None]:
    starts = world.fleet.members[worker].starts
    world.fleet.terminate(worker)
    has_stopped = until(lambda: world.fleet.members[worker].starts > starts, STOP_SECONDS)
    while not has_stopped():
        yield A_LOOK
    if world.fleet.members[worker].starts == starts:
        world.fleet.note(worker, f"did not stop in {STOP_SECONDS:.0f} s when it was asked to")
        world.fleet.kill(worker)
    yield RESTART_SECONDS


@fault("worker frozen past its lease", resource="workers", seconds=9)
def freeze_worker(world: World, choice: float) -> Course:
    """It is given jobs of two kinds, which tell on an attempt that is late. It wakes up while they run elsewhere."""
    worker = pick(choice, PREFORK)
    tokens: list[str] = []
    effects: list[str] = []

    def wish() -> list[Promise]:
        # Not behind the backlog of a slow machine, in which none of them would run in time.
        soon = {"kwargs": {"seconds": 5}, "queue": "high"}
        promises = [mix.promise(chaos.token.apply_async(**soon), "token") for _ in range(2)]
        tokens.extend(promise.job_id for promise in promises)
        promises += [mix.promise(chaos.effect.apply_async(**soon), "effect") for _ in range(2)]
        effects.extend(promise.job_id for promise in promises[2:])
        return promises

    running = yield from until_met(world, lambda: _if_of_each_kind(world, worker, tokens, effects), wish)
    if running:
        yield from freeze_until_replaced(world, worker, tokens)
    return Hit(running, "running jobs")


def _if_of_each_kind(world: World, worker: str, *kinds: list[str]) -> int:
    """How many of these jobs it runs, or 0 if it runs none of a kind."""
    running = [world.running_on(worker, kind) for kind in kinds]
    return sum(running) if all(running) else 0


def freeze_until_replaced(world: World, worker: str, tokens: list[str]) -> Generator[float, None, None]:
    """Until one of these jobs runs elsewhere: if the late attempt may write its end, it does so before the new one."""
    family = world.fleet.suspend(worker)
    held = world.held_by(worker, tokens)
    replaced = until(lambda: world.runs_again(held), FROZEN_SECONDS)
    while not replaced():
        yield A_LOOK
    world.fleet.resume(family)


@fault("kill -9 between fetch and registration", resource="workers", seconds=8)
def kill_while_fetching(world: World, _choice: float) -> Course:
    """The only worker of a queue is frozen. The server tells it of a message, or hands it one: it never wakes up."""
    world.fleet.suspend(LOW)
    fetched: list[Promise] = []

    def fetch() -> list[Promise]:
        fetched.append(mix.promise(lab.lab_nothing.apply_async(queue="low"), "fetched"))
        return fetched[-1:]

    met = yield from until_met(world, lambda: world.sent([promise.job_id for promise in fetched]), fetch)
    world.fleet.kill(LOW)
    yield RESTART_SECONDS
    return Hit(met, "messages in the window")
