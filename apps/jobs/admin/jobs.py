from collections.abc import Collection
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from apps.jobs import ledger
from apps.jobs.admin.acts import Act, ActingAdmin, Batch
from apps.jobs.admin.filters import CreatedFilter, QueueFilter, TaskFilter, known_tasks
from apps.jobs.admin.records import (
    NOTHING,
    SEARCHED,
    as_json,
    call,
    exact,
    job_link,
    state_badge,
    two_lines,
    with_id,
    with_text,
)
from apps.jobs.models import DeadLetter, Job
from apps.jobs.paging import JobPaginator, newest_values
from apps.jobs.spans import span
from apps.jobs.timeline import timeline

TIMES: Any = (
    exact("created_at"),
    exact("run_at", "due"),
    *map(exact, ("sent_at", "started_at", "finished_at", "expires_at", "lease_until")),
)
# As many of a job's children as its page names; the list, searched by the job's id, has them all.
CHILDREN_SHOWN = 20
# Each state by itself, as its partial index has it.
LIVE = Q(state=Job.State.QUEUED) | Q(state=Job.State.SENT) | Q(state=Job.State.RUNNING)
# For its time: a job that is due has nothing left to be hurried to.
WAITING = Q(state=Job.State.QUEUED, run_at__gt=Now())


def cancel(batch: Batch) -> Collection[UUID]:
    """Those that had ended meanwhile are left as they are."""
    return ledger.cancel_many(batch.ids)


def hurry(batch: Batch) -> Collection[UUID]:
    waiting = list(Job.objects.filter(WAITING, pk__in=batch.ids).values_list("pk", flat=True))
    ledger.hurry(waiting)
    return waiting


CANCEL = Act(
    name="cancel",
    label="Cancel",
    done="Cancelled",
    means="cancelled. What runs stops at its next checkpoint",
    permission="jobs.cancel_job",
    applies_to=LIVE,
    none="None of these is live: there is nothing to cancel.",
    otherwise="had ended before.",
    perform=cancel,
)
RUN_NOW = Act(
    name="run_now",
    label="Run now",
    done="Made due now",
    means="made due now, and so started as soon as a worker is free",
    permission="jobs.run_job",
    applies_to=WAITING & Q(errors=[]),
    none="None of these waits for its time.",
    otherwise="had become due before.",
    perform=hurry,
)
RETRY_NOW = Act(
    name="retry_now",
    label="Retry now",
    done="Made due now",
    means="tried again without waiting for their time",
    permission="jobs.run_job",
    applies_to=WAITING & ~Q(errors=[]),
    none="None of these waits for another attempt.",
    otherwise="had become due before.",
    perform=hurry,
)


@admin.register(Job)
class JobAdmin(ActingAdmin):
    list_display = ("summary", "badge", "queue", "attempts", "waited", "ran", "age")
    list_filter = ("state", QueueFilter, TaskFilter, CreatedFilter)
    search_fields = ("id",)
    search_help_text = (
        f"An id finds a job, its children and its replays. Other text is looked for in the newest {SEARCHED:,} jobs"
        " that the filters leave: in the task's name, the arguments and the errors."
    )
    ordering = ("-created_at",)
    sortable_by = ("age",)
    paginator = JobPaginator
    acts = (CANCEL, RETRY_NOW, RUN_NOW)
    cause_fields = ("task", "state")
    change_form_template = "admin/jobs/job.html"
    fieldsets = (
        (
            "Call",
            {"fields": ("task", "shown_args", "shown_kwargs", "shown_result", "queue", "shown_priority", "owner")},
        ),
        (
            "Related jobs",
            {"fields": ("shown_letter", "shown_parent", "shown_children", "shown_replay_of", "shown_replays")},
        ),
        ("Attempts", {"fields": ("attempts", "retries", "crashes", "waited", "ran", "progress", "cancel_requested")}),
        ("Times", {"fields": TIMES}),
        ("Locks", {"fields": ("unique_key", "running_key")}),
    )
    readonly_fields: ClassVar[Any] = tuple(field for _, options in fieldsets for field in options["fields"])

    def get_paginator(
        self, request: HttpRequest, queryset: Any, per_page: int, *rest: Any, **options: Any
    ) -> Paginator[Any]:
        """A job's history is paged through by the same method, and its rows are the admin's log."""
        paginator = JobPaginator if queryset.model is Job else Paginator
        return paginator(queryset, per_page, *rest, **options)

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Job]", search_term: str
    ) -> tuple["QuerySet[Job]", bool]:
        if not search_term.strip():
            return queryset, False
        family = with_id(queryset, search_term, ("id", "parent_id", "replay_of"))
        if family is not None:
            return family, False
        if search_term.strip() in known_tasks():
            return queryset.filter(task=search_term.strip()), False
        columns = ("task", "args", "kwargs", "errors")
        newest = newest_values(queryset, SEARCHED, ("id", *columns))
        return with_text(queryset, newest, search_term, columns), False

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        job = kwargs["obj"]
        context |= {"job": job, "moments": timeline(job), "may_replay": request.user.has_perm("jobs.replay_deadletter")}
        context["letter"] = DeadLetter.objects.filter(job_id=job.pk).first()
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description="task")
    def summary(self, job: Job) -> str:
        """With the last error, or else the arguments."""
        if job.errors:
            return two_lines(job.task, str(job.errors[-1].get("message", "")), "bad")
        return two_lines(job.task, call(job.args, job.kwargs))

    @admin.display(description="state")
    def badge(self, job: Job) -> str:
        return state_badge(job.state)

    @admin.display(description="wait")
    def waited(self, job: Job) -> str:
        """From when the latest attempt was due until it started; for a job that waits, until now."""
        if job.state in (Job.State.QUEUED, Job.State.SENT):
            return span(timezone.now() - job.run_at) if job.run_at <= timezone.now() else NOTHING
        return span(job.started_at - job.run_at) if job.started_at else NOTHING

    @admin.display(description="run")
    def ran(self, job: Job) -> str:
        """Of the latest attempt; of one that runs, until now."""
        if job.started_at is None or job.state in (Job.State.QUEUED, Job.State.SENT):
            return NOTHING
        return span((job.finished_at or timezone.now()) - job.started_at)

    @admin.display(description="created", ordering="created_at")
    def age(self, job: Job) -> str:
        return naturaltime(job.created_at)

    @admin.display(description="args")
    def shown_args(self, job: Job) -> str:
        return as_json(job.args) if job.args else NOTHING

    @admin.display(description="kwargs")
    def shown_kwargs(self, job: Job) -> str:
        return as_json(job.kwargs) if job.kwargs else NOTHING

    @admin.display(description="result")
    def shown_result(self, job: Job) -> str:
        return NOTHING if job.result is None else as_json(job.result)

    @admin.display(description="priority")
    def shown_priority(self, job: Job) -> str:
        """As text: a count of 0 is left out as nothing to tell, and the priority 0 is one."""
        return NOTHING if job.priority is None else str(job.priority)

    @admin.display(description="dead letter")
    def shown_letter(self, job: Job) -> str:
        letter = DeadLetter.objects.filter(job_id=job.pk).first()
        if letter is None:
            return NOTHING
        address = reverse("admin:jobs_deadletter_change", args=[letter.pk])
        return format_html('<a href="{}">{}</a> ({})', address, letter, letter.state)

    @admin.display(description="started by")
    def shown_parent(self, job: Job) -> str:
        return job_link(job.parent_id)

    @admin.display(description="started")
    def shown_children(self, job: Job) -> str:
        return _listed(Job.objects.filter(parent_id=job.pk))

    @admin.display(description="replay of")
    def shown_replay_of(self, job: Job) -> str:
        return job_link(job.replay_of)

    @admin.display(description="replayed as")
    def shown_replays(self, job: Job) -> str:
        return _listed(Job.objects.filter(replay_of=job.pk))


def _listed(jobs: "QuerySet[Job]") -> str:
    rows = [
        (reverse("admin:jobs_job_change", args=[job.pk]), job.task, job.state) for job in jobs[: CHILDREN_SHOWN + 1]
    ]
    lines = format_html_join("", '<li><a href="{}">{}</a> ({})</li>', rows[:CHILDREN_SHOWN])
    more = mark_safe("<li>… and more</li>") if len(rows) > CHILDREN_SHOWN else ""
    return format_html("<ul>{}{}</ul>", lines, more) if rows else NOTHING
