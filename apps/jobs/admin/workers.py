from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html_join

from apps.jobs.admin.records import NOTHING, RecordAdmin, exact, shortened, state_badge
from apps.jobs.models import Job, Worker


def up() -> Q:
    return Q(stopped_at=None, heartbeat_at__gt=Now() - settings.JOBS_LEASE)


class UpFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "up"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Up"), ("no", "Stopped or gone")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Worker]") -> "QuerySet[Worker]":
        wanted = {"yes": up(), "no": ~up()}.get(self.value() or "")
        return queryset.filter(wanted) if wanted is not None else queryset


@admin.register(Worker)
class WorkerAdmin(RecordAdmin):
    list_display = ("name", "badge", "busy_of_size", "reads", "pool", "pid", "age", "seen")
    list_filter = (UpFilter, "pool")
    ordering = (F("stopped_at").desc(nulls_first=True), "-heartbeat_at")
    sortable_by = ("seen",)
    fields = readonly_fields = (
        "name",
        "badge",
        "pid",
        "pool",
        "busy_of_size",
        "listens_to",
        exact("started_at"),
        exact("heartbeat_at"),
        exact("stopped_at"),
        "runs",
    )

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Worker]":
        workers: QuerySet[Worker] = super().get_queryset(request)
        return workers.annotate(is_up=up())

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"flower": settings.FLOWER_URL, **(extra_context or {})})

    @admin.display(description="state")
    def badge(self, worker: Any) -> str:
        """Gone: it did not say that it stops, and its heart has not beaten for a lease's time."""
        if worker.stopped_at is not None:
            return state_badge("stopped")
        return state_badge("up" if worker.is_up else "gone")

    @admin.display(description="busy")
    def busy_of_size(self, worker: Worker) -> str:
        return f"{worker.busy} of {worker.size}"

    @admin.display(description="queues")
    def reads(self, worker: Worker) -> str:
        """For the list; the worker's page has all of them."""
        return shortened(self.listens_to(worker))

    @admin.display(description="queues")
    def listens_to(self, worker: Worker) -> str:
        return ", ".join(worker.queues)

    @admin.display(description="started", ordering="started_at")
    def age(self, worker: Worker) -> str:
        return naturaltime(worker.started_at)

    @admin.display(description="heartbeat", ordering="heartbeat_at")
    def seen(self, worker: Worker) -> str:
        return naturaltime(worker.heartbeat_at)

    @admin.display(description="runs now")
    def runs(self, worker: Worker) -> str:
        jobs = Job.objects.filter(state=Job.State.RUNNING, worker_id=worker.pk).order_by("started_at")
        lines = [(reverse("admin:jobs_job_change", args=[job.pk]), job) for job in jobs]
        return format_html_join("", '<p><a href="{}">{}</a></p>', lines) or NOTHING
