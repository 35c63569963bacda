"""What all these tables have in common: they are long, nobody edits them, and anything may stand in them."""

import json
from typing import Any
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from apps.jobs import sensitive
from apps.jobs.paging import EstimatingPaginator

# A list is for looking: a message is read in full on its own page.
MESSAGE_IN_LIST = 100


def as_json(value: Any) -> str:
    text = json.dumps(sensitive.mask(value), indent=2, ensure_ascii=False, default=str)
    return format_html("<pre>{}</pre>", text)


def folded(summary: str, text: str) -> str:
    return format_html("<details><summary>{}</summary><pre>{}</pre></details>", summary, text)


def job_link(job_id: UUID | None) -> str:
    if job_id is None:
        return "–"
    return format_html('<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[job_id]), job_id)


class RecordAdmin(admin.ModelAdmin[Any]):
    """For rows that say what happened. Actions may do something about them; nobody edits or deletes them."""

    paginator = EstimatingPaginator
    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def log_many(self, request: HttpRequest, rows: "QuerySet[Any]", message: str) -> None:
        LogEntry.objects.log_actions(request.user.pk or 0, rows, CHANGE, message)


class TaskFilter(admin.SimpleListFilter):
    """By the names that this process knows: a DISTINCT over the table would read all of it."""

    title = parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted(current_app.tasks) if not name.startswith("celery.")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(task=self.value()) if self.value() else queryset


class QueueFilter(admin.SimpleListFilter):
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.JOBS_QUEUES]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(queue=self.value()) if self.value() else queryset


def found(rows: "QuerySet[Any]", term: str, ids: tuple[str, ...], texts: tuple[str, ...]) -> "QuerySet[Any]":
    """An id finds by id, which is an index's work; anything else reads the texts."""
    try:
        wanted: Any = UUID(term.strip())
        columns = ids
    except ValueError:
        wanted = term.strip()
        columns = tuple(f"{text}__icontains" for text in texts)
    condition = Q()
    for column in columns:
        condition |= Q(**{column: wanted})
    return rows.filter(condition)
