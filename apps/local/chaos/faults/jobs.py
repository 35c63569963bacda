"""Jobs that are a trial by themselves."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db import close_old_connections
from django.utils import timezone

from apps.jobs import ledger
from apps.local.chaos import mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.faults.strike import A_LOOK, DESK, Course, Hit, ask_for, fault, until_met
from apps.local.chaos.journal import Promise
from apps.local.chaos.producer import LOST
from apps.local.chaos.world import World, until
from tasks import lab

# Longer than all that may delay a wish to cancel: the body must not end before it is there.
LONG_SECONDS = 60.0
KEEP_CANCELLING = 30.0


@fault("a task that segfaults each time", resource="jobs", seconds=5)
def record_poison(world: World, _choice: float) -> Course:
    asked = yield from ask_for(world, lambda: [mix.promise(chaos.segfault.delay(), "poison", mix.DEAD)])
    yield 1.0
    return Hit(len(asked), "jobs")


@fault("run_at an hour ahead", resource="jobs", seconds=5)
def record_ahead(world: World, _choice: float) -> Course:
    asked = yield from ask_for(world, _an_hour_ahead)
    world.ahead += [promise.job_id for promise in asked]
    yield 1.0
    return Hit(len(asked), "jobs")


def _an_hour_ahead() -> list[Promise]:
    eta = timezone.now() + timedelta(hours=1)
    return [mix.promise(lab.lab_nothing.apply_async(eta=eta), "an hour ahead")]


@fault("jobs cancelled", resource="jobs", seconds=6)
def cancel_jobs(world: World, _choice: float) -> Course:
    """While they run, or while they still wait: the wish must outlive whatever strikes their workers meanwhile."""
    asked: list[str] = []

    def wish() -> list[Promise]:
        job = lab.lab_sleep.delay(seconds=LONG_SECONDS, steps=300)
        asked.append(str(job.id))
        return [mix.promise(job, "lab_sleep, cancelled", mix.CANCELLED)]

    yield from until_met(world, lambda: world.running(asked), wish)
    cancelled = DESK.submit(_cancel, asked)
    while not cancelled.done():
        yield A_LOOK
    return Hit(cancelled.result(), "jobs")


def _cancel(job_ids: Sequence[str]) -> int:
    """Until the database has answered. Returns how many of them there are."""
    tired = until(lambda: False, KEEP_CANCELLING)
    while not tired():
        try:
            close_old_connections()
            return len(ledger.cancel_many([UUID(job_id) for job_id in job_ids]))
        except LOST:
            continue
    return 0
