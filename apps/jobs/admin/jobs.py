from typing import Any

from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from apps.jobs import ledger
from apps.jobs.admin.records import (
    MESSAGE_IN_LIST,
    QueueFilter,
    RecordAdmin,
    TaskFilter,
    as_json,
    folded,
    found,
    job_link,
)
from apps.jobs.models import DeadLetter, Job, Worker


@admin.register(Job)
class JobAdmin(RecordAdmin):
    list_display = ("task", "state", "queue", "attempts", "age", "last_error", "id")
    list_display_links = ("task", "id")
    list_filter = ("state", QueueFilter, TaskFilter)
    search_fields = ("id",)
    search_help_text = "An id; or a part of the task's name, of its arguments, or of an error."
    ordering = ("-id",)  # which is by time, and by an index that is there anyway
    actions = ("cancel", "run_now")
    fields = readonly_fields = (
        "task",
        "state",
        "queue",
        "priority",
        "shown_args",
        "shown_kwargs",
        "retries",
        "attempts",
        "crashes",
        "created_at",
        "run_at",
        "sent_at",
        "started_at",
        "finished_at",
        "expires_at",
        "lease_until",
        "shown_worker",
        "cancel_requested",
        "progress",
        "shown_result",
        "shown_errors",
        "shown_letter",
        "unique_key",
        "running_key",
        "owner",
        "shown_parent",
        "shown_replay_of",
    )

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Job]", search_term: str
    ) -> tuple["QuerySet[Job]", bool]:
        if not search_term.strip():
            return queryset, False
        ids = ("id", "root_id", "parent_id", "replay_of")
        return found(queryset, search_term, ids, ("task", "args", "kwargs", "errors")), False

    @admin.display(description="created", ordering="id")
    def age(self, job: Job) -> str:
        return naturaltime(job.created_at)

    @admin.display(description="last error")
    def last_error(self, job: Job) -> str:
        return str(job.errors[-1].get("message", ""))[:MESSAGE_IN_LIST] if job.errors else ""

    @admin.display(description="args")
    def shown_args(self, job: Job) -> str:
        return as_json(job.args)

    @admin.display(description="kwargs")
    def shown_kwargs(self, job: Job) -> str:
        return as_json(job.kwargs)

    @admin.display(description="result")
    def shown_result(self, job: Job) -> str:
        return as_json(job.result)

    @admin.display(description="worker")
    def shown_worker(self, job: Job) -> str:
        """Its row may be gone: workers are kept for a week."""
        if job.worker_id is None:
            return "–"
        return str(Worker.objects.filter(pk=job.worker_id).first() or job.worker_id)

    @admin.display(description="errors")
    def shown_errors(self, job: Job) -> str:
        rows = ((folded(_summary(error), error.get("traceback", "")),) for error in job.errors)
        return format_html_join("", "{}", rows) or "–"

    @admin.display(description="dead letter")
    def shown_letter(self, job: Job) -> str:
        letter = DeadLetter.objects.filter(job_id=job.pk).first()
        if letter is None:
            return "–"
        return format_html('<a href="{}">{}</a>', reverse("admin:jobs_deadletter_change", args=[letter.pk]), letter)

    @admin.display(description="asked for by")
    def shown_parent(self, job: Job) -> str:
        return job_link(job.parent_id)

    @admin.display(description="replay of")
    def shown_replay_of(self, job: Job) -> str:
        return job_link(job.replay_of)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.cancel_job")

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, jobs: "QuerySet[Job]") -> None:
        live = list(jobs.filter(state__in=Job.LIVE).values_list("pk", flat=True))
        for job_id in live:
            ledger.cancel(job_id)
        self.log_many(request, Job.objects.filter(pk__in=live), "Cancelled.")
        self.message_user(request, f"Cancelled {len(live):,}. What runs now stops at its next checkpoint.")

    @admin.action(description="Run now", permissions=["cancel"])
    def run_now(self, request: HttpRequest, jobs: "QuerySet[Job]") -> None:
        queued = list(jobs.filter(state=Job.State.QUEUED).values_list("pk", flat=True))
        hurried = ledger.hurry(queued)
        self.log_many(request, Job.objects.filter(pk__in=queued), "Made due now.")
        self.message_user(request, f"Made {hurried:,} due now.")


def _summary(error: dict[str, Any]) -> str:
    return f"{error.get('at', '')[:19]} {error.get('exception', '')}: {error.get('message', '')}"
