"""A schedule, started by hand: one job more, which moves no tick.

It counts as the schedule's last run: while it is live, a schedule that may not overlap skips its ticks.
"""

from uuid import UUID

from celery import current_app
from django.db import transaction
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError as BrokerError

from apps.jobs.backpressure import QueueFull
from apps.jobs.ids import uuid7
from apps.jobs.models import SchedulePolicy
from apps.jobs.scheduler import UNUSABLE, Call


class NotRunnable(ValueError):
    """The schedule cannot become a job now."""


def run_now(model: PeriodicTask) -> UUID:
    """The new job's id; for a task with `unique`, perhaps that of the job that is there already."""
    task = current_app.tasks.get(model.task)
    if task is None:
        raise NotRunnable(f"no task is named {model.task!r}.")
    try:
        with transaction.atomic():
            call = Call.of(model)
            result = task.apply_async(call.args, call.kwargs, task_id=str(uuid7()), **call.options)
            SchedulePolicy.objects.update_or_create(schedule=model, defaults={"last_job_id": result.id})
    except (*UNUSABLE, QueueFull, BrokerError) as exc:
        raise NotRunnable(str(exc)) from exc
    return UUID(result.id)
