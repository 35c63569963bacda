"""django-celery-beat's own page of a schedule, with our policy on it."""

from typing import Any

from django.contrib import admin
from django_celery_beat.admin import PeriodicTaskAdmin
from django_celery_beat.models import PeriodicTask

from apps.jobs.models import SchedulePolicy


class SchedulePolicyInline(admin.StackedInline[SchedulePolicy, Any]):
    model = SchedulePolicy
    fields = ("missed", "overlap", "late_after")
    can_delete = False


admin.site.unregister(PeriodicTask)


@admin.register(PeriodicTask)
class ScheduleAdmin(PeriodicTaskAdmin):
    inlines = (SchedulePolicyInline,)
