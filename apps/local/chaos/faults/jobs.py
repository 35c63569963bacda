"""Jobs that are a trial by themselves."""

from datetime import timedelta

from django.utils import timezone

from apps.local.chaos import mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.faults.strike import Course, Hit, ask_for, fault
from apps.local.chaos.journal import Promise
from apps.local.chaos.world import World
from tasks import lab


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
