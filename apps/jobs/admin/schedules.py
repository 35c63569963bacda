"""django-celery-beat's own pages of a schedule, with our policy on it, what became of its last run, and "run now"."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.core.exceptions import PermissionDenied
from django.db.models import F, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django_celery_beat.admin import PeriodicTaskAdmin
from django_celery_beat.models import PeriodicTask

from apps.jobs.admin.records import state_badge
from apps.jobs.admin.strict import StrictAdmin
from apps.jobs.models import Job, SchedulePolicy
from apps.jobs.run_now import NotRunnable, run_now
from apps.jobs.ticks import next_tick

PERMISSION = "jobs.run_schedule"


class SchedulePolicyInline(admin.StackedInline[SchedulePolicy, Any]):
    model = SchedulePolicy
    fields = ("missed", "overlap", "late_after")
    can_delete = False


admin.site.unregister(PeriodicTask)


@admin.register(PeriodicTask)
class ScheduleAdmin(StrictAdmin, PeriodicTaskAdmin):
    change_form_template = "admin/django_celery_beat/periodictask/change_form.html"
    inlines = (SchedulePolicyInline,)
    list_display = ("name", "task", "enabled", "scheduler", "last_run", "last_outcome", "next_run")
    list_filter = ("enabled", "one_off")
    date_hierarchy = None
    actions = ("run_now", "enable_tasks", "disable_tasks")

    def get_queryset(self, request: HttpRequest) -> "QuerySet[PeriodicTask]":
        last_job = Job.objects.filter(pk=OuterRef("policy__last_job_id"))
        schedules: QuerySet[PeriodicTask] = (
            super()
            .get_queryset(request)
            .select_related("policy")
            .annotate(last_job_id=F("policy__last_job_id"), last_state=Subquery(last_job.values("state")))
        )
        return schedules

    def get_actions(self, request: HttpRequest) -> Any:
        """The parent's own are open to everybody who may look."""
        actions = super().get_actions(request)
        return {name: action for name, action in actions.items() if self._is_permitted(request, name)}

    def _is_permitted(self, request: HttpRequest, action: str) -> bool:
        if action == "run_now":
            return request.user.has_perm(PERMISSION)
        return action not in ("enable_tasks", "disable_tasks") or self.has_change_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        asked = request.POST.getlist("action")
        if any(name in self.actions and not self._is_permitted(request, name) for name in asked):
            raise PermissionDenied
        return super().changelist_view(request, {"title": "Schedules", **(extra_context or {})})

    @admin.action(description="Run now")
    def run_now(self, request: HttpRequest, schedules: "QuerySet[PeriodicTask]") -> None:
        for model in schedules:
            try:
                job_id = run_now(model)
            except NotRunnable as exc:
                self.message_user(request, f"{model.name} was not started: {exc}", messages.ERROR)
            else:
                LogEntry.objects.log_actions(
                    request.user.pk or 0, [model], CHANGE, f"Run now as job {job_id}.", single_object=True
                )
                self.message_user(request, _started(model, job_id), messages.SUCCESS)

    @admin.action(description="Enable")
    def enable_tasks(self, request: HttpRequest, queryset: "QuerySet[PeriodicTask]") -> None:
        chosen = list(queryset)  # before they leave a list of those that are disabled
        super().enable_tasks(request, queryset)
        # As saving its form does: what would have been due while it was off has not been missed.
        were_off = [model.pk for model in chosen if not model.enabled]
        PeriodicTask.objects.filter(pk__in=were_off).update(date_changed=timezone.now())
        LogEntry.objects.log_actions(request.user.pk or 0, chosen, CHANGE, "Enabled.")

    @admin.action(description="Disable")
    def disable_tasks(self, request: HttpRequest, queryset: "QuerySet[PeriodicTask]") -> None:
        chosen = list(queryset)
        super().disable_tasks(request, queryset)
        LogEntry.objects.log_actions(request.user.pk or 0, chosen, CHANGE, "Disabled.")

    @admin.display(description="last run", ordering="last_run_at")
    def last_run(self, model: PeriodicTask) -> str:
        return naturaltime(model.last_run_at) if model.last_run_at else "–"

    @admin.display(description="last outcome")
    def last_outcome(self, model: Any) -> str:
        """Of the last job it started, as long as that is kept; a run by hand counts as well."""
        if model.last_state is None:
            return "–"
        address = reverse("admin:jobs_job_change", args=[model.last_job_id])
        return format_html('<a href="{}">{}</a>', address, state_badge(model.last_state))

    @admin.display(description="next run")
    def next_run(self, model: PeriodicTask) -> str:
        try:
            due = next_tick(model) if model.enabled else None
        except Exception:  # noqa: BLE001 - beat's log tells more, and here a person looks for it to mend it
            return "never: it cannot be used"
        return naturaltime(due) if due else "–"


def _started(model: PeriodicTask, job_id: UUID) -> str:
    return format_html(
        '{} runs as <a href="{}">a job</a>.', model.name, reverse("admin:jobs_job_change", args=[job_id])
    )
