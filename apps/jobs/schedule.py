"""The schedule that stands in code, put into the database once: see config/schedule.py."""

from datetime import timedelta
from typing import Any

from django.apps import apps as installed_apps
from django.conf import settings
from django.db import transaction
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from apps.jobs.models import SchedulePolicy


def ensure_schedule(apps: Any = installed_apps, **_: Any) -> list[str]:
    """Create what is missing, and return the names. After `migrate`; does nothing before the tables are there."""
    try:
        apps.get_model("jobs", "SchedulePolicy")
    except LookupError:
        return []
    return [entry.name for entry in settings.JOBS_SCHEDULE if _ensure(entry)]


def _ensure(entry: Any) -> bool:
    if PeriodicTask.objects.filter(name=entry.name).exists():
        return False
    with transaction.atomic():
        model = PeriodicTask.objects.create(
            name=entry.name, task=entry.task, description=entry.description, **_when(entry.when)
        )
        SchedulePolicy.objects.create(schedule=model, missed=entry.missed, late_after=entry.late_after)
    return True


def _when(when: Any) -> dict[str, Any]:
    if isinstance(when, timedelta):
        seconds = int(when.total_seconds())
        return {"interval": IntervalSchedule.objects.get_or_create(every=seconds, period=IntervalSchedule.SECONDS)[0]}
    crontab = CrontabSchedule.from_schedule(when)
    crontab.save()
    return {"crontab": crontab}
