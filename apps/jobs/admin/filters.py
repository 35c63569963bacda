"""Filters that an index can answer, and that ask no table for its distinct values."""

from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

FOLDED = "admin/jobs/folded_filter.html"


def known_tasks() -> list[str]:
    return sorted(name for name in current_app.tasks if not name.startswith("celery."))


class ExactFilter(admin.SimpleListFilter):
    """By one column. A link may name a value that is not offered: a task of yesterday's code."""

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        value = self.value()
        return queryset.filter(**{self.parameter_name or "": value}) if value else queryset


class TaskFilter(ExactFilter):
    title = parameter_name = "task"
    template = FOLDED

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in known_tasks()]


class QueueFilter(ExactFilter):
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.JOBS_QUEUES]


class FoldedFilter(admin.ChoicesFieldListFilter):
    """By a column with many choices."""

    template = FOLDED

    @property
    def value(self) -> Any:
        return self.lookup_val and self.lookup_val[-1]


# Of a filter by time: the parameters in the address.
MOMENTS = ("within", "since", "until")


class CreatedFilter(admin.ListFilter):
    """Since and until: a few usual choices, and two fields for any other time."""

    title = "date"
    template = "admin/jobs/created_filter.html"
    USUAL = {
        "15m": ("Last 15 minutes", timedelta(minutes=15)),
        "1h": ("Last hour", timedelta(hours=1)),
        "24h": ("Last 24 hours", timedelta(hours=24)),
        "7d": ("Last 7 days", timedelta(days=7)),
    }

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.asked: dict[str, str] = {name: params.pop(name)[-1] for name in MOMENTS if name in params}
        self.used_parameters.update(self.asked)
        # What the form has to send along: the other filters and the search, and not the page.
        self.kept = [
            (name, value)
            for name, values in request.GET.lists()
            for value in values
            if name not in (*MOMENTS, PAGE_VAR)
        ]

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return [*MOMENTS]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        usual = self.USUAL.get(self.asked.get("within", ""))
        if usual:
            queryset = queryset.filter(created_at__gte=timezone.now() - usual[1])
        if since := self._moment("since"):
            queryset = queryset.filter(created_at__gte=since)
        if until := self._moment("until"):
            queryset = queryset.filter(created_at__lt=until)
        return queryset

    def _moment(self, name: str) -> datetime | None:
        """None for what is no time: the field then shows what was typed, and nothing is filtered."""
        try:
            parsed = parse_datetime(self.asked.get(name, ""))
        except ValueError:
            return None
        return timezone.make_aware(parsed) if parsed and timezone.is_naive(parsed) else parsed

    def choices(self, changelist: Any) -> Any:
        yield self._choice(changelist, "Any time", "")
        for value, (label, _) in self.USUAL.items():
            yield self._choice(changelist, label, value)

    def _choice(self, changelist: Any, label: str, value: str) -> dict[str, Any]:
        chosen = self.asked.get("within", "") == value
        return {
            "display": label,
            "selected": chosen and (bool(value) or not self.asked),
            "query_string": changelist.get_query_string({"within": value} if value else {}, [*MOMENTS]),
        }

    @property
    def fields(self) -> list[tuple[str, str, str]]:
        """Of the form: name, label and value."""
        return [(name, f"{name.title()} (UTC)", self.asked.get(name, "")) for name in ("since", "until")]
