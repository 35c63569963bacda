"""Two groups of users, who come with the migrations: `operators` act on jobs, `viewers` look at them.

A group that is there already is left as it is: whoever took a permission away meant it.
"""

from typing import Any

from django.apps import apps as installed_apps
from django.db.models import Q

ACTS = ("cancel_job", "run_job", "replay_deadletter", "discard_deadletter", "pause_queue", "run_schedule")
LOOKS_AT = ("job", "deadletter", "queuepause", "worker", "schedulepolicy")
# django-celery-beat's: a schedule, and the kinds of times that it may have.
SCHEDULES = ("periodictask", "intervalschedule", "crontabschedule", "clockedschedule", "solarschedule")


def ensure_groups(apps: Any = installed_apps, **_: Any) -> None:
    """After `migrate`, when the permissions are there. The apps are as this migration leaves them."""
    try:
        group, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
        apps.get_model("jobs", "SchedulePolicy")
    except LookupError:
        return
    looking = Q(codename__in=[f"view_{model}" for model in LOOKS_AT], content_type__app_label="jobs") | Q(
        codename__in=[f"view_{model}" for model in SCHEDULES], content_type__app_label="django_celery_beat"
    )
    acting = Q(codename__in=ACTS, content_type__app_label="jobs")
    for name, wanted in (("viewers", looking), ("operators", looking | acting)):
        made, is_new = group.objects.get_or_create(name=name)
        if is_new:
            made.permissions.set(permission.objects.filter(wanted))
