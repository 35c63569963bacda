"""What all these tables have in common: they are long, nobody edits them, and anything may stand in them."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin import ShowFacets
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import ChangeList
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import BooleanField, F, Func, Q, QuerySet, UUIDField, Value
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import reverse
from django.utils.html import format_html

from apps.jobs import sensitive
from apps.jobs.admin.strict import StrictAdmin
from apps.jobs.paging import ShallowPaginator

NOTHING = "–"
# A list is for looking: a message is read in full on its own page.
MESSAGE_IN_LIST = 100
# Text is looked for in so many rows, the newest that the filters leave: those are read in some 50 ms, without an index
# over every word that a job says, which each job would have to pay for.
SEARCHED = 10_000
# … and so many are shown.
FOUND = 1_000


def as_json(value: Any) -> str:
    text = json.dumps(sensitive.mask(value), indent=2, ensure_ascii=False, default=str)
    return format_html("<pre>{}</pre>", text)


def folded(summary: str, text: str) -> str:
    return format_html("<details><summary>{}</summary><pre>{}</pre></details>", summary, text)


def call(args: list[Any], kwargs: dict[str, Any]) -> str:
    """As they would be written in a call; sealed ones as `***`."""
    named = [f"{name}={value!r}" for name, value in sensitive.mask(kwargs).items()]
    return ", ".join([*map(repr, sensitive.mask(args)), *named])


def two_lines(first: str, second: str, mood: str = "") -> str:
    return format_html('{}<span class="line {}">{}</span>', first or NOTHING, mood, shortened(second))


def shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_IN_LIST else text[: MESSAGE_IN_LIST - 1] + "…"


def link(address: str, text: Any) -> str:
    return format_html('<a href="{}">{}</a>', address, text)


def state_badge(state: str) -> str:
    return format_html('<span class="state state-{}">{}</span>', state, state)


def exact(column: str, name: str = "") -> Any:
    """A field of the page: the time to the second, which Django's own format leaves out."""

    @admin.display(description=name or column.removesuffix("_at").replace("_", " "))
    def shown(row: Any) -> str:
        moment = getattr(row, column)
        return f"{moment:%-d %b %Y, %H:%M:%S} UTC" if moment else NOTHING

    return shown


def job_link(job_id: UUID | None) -> str:
    if job_id is None:
        return NOTHING
    return link(reverse("admin:jobs_job_change", args=[job_id]), job_id)


class PagedChangeList(ChangeList):
    """Takes its rows from the paginator even if there is one page: only that knows how to find them quickly."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query:  # else Django writes "10000 results" beside the search, which is the paginator's limit
            self.full_result_count = self.result_count
        if not self.multi_page:
            self.result_list = self.paginator.page(1).object_list


class RecordAdmin(StrictAdmin):
    """For rows that say what happened. Actions may do something about them; nobody edits or deletes them."""

    paginator = ShallowPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # they count the table, once a choice
    list_per_page = 50
    list_max_show_all = 0

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method not in ("GET", "HEAD", "POST"):
            return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
        title = str(self.opts.verbose_name_plural).capitalize()  # Django's own asks to "select job to view"
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Without what there is nothing to say about."""
        fieldsets = [
            (name, {**options, "fields": [field for field in options["fields"] if self._says(field, obj)]})
            for name, options in super().get_fieldsets(request, obj)
        ]
        return [(name, options) for name, options in fieldsets if options["fields"]]

    def _says(self, field: Any, row: Any) -> bool:
        if callable(field):
            value = field(row)
        else:
            value = getattr(self, field)(row) if hasattr(self, field) else getattr(row, field)
        return value not in (None, "", False, NOTHING)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PagedChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Django would send the browser to the start page, which a program takes for an answer."""
        raise Http404(f"There is no {opts.verbose_name} {object_id}.")

    def log_many(self, request: HttpRequest, rows: "QuerySet[Any]", message: str) -> None:
        LogEntry.objects.log_actions(request.user.pk or 0, rows, CHANGE, message)


def with_id(rows: "QuerySet[Any]", term: str, columns: tuple[str, ...]) -> "QuerySet[Any] | None":
    """The rows that have this id in one of the columns, each of which has an index; None if it is no id."""
    try:
        wanted = UUID(term.strip())
    except ValueError:
        return None
    condition = Q()
    for column in columns:
        condition |= Q(**{column: wanted})
    return rows.filter(condition)


def with_text(
    rows: "QuerySet[Any]", newest: "QuerySet[Any, Any]", term: str, columns: Sequence[str]
) -> "QuerySet[Any]":
    """The rows among `newest`, which is their ids and these columns, that contain the text: at most `FOUND`.

    Asked of `newest` itself, and not of the table beside `id IN (…)`, which would leave PostgreSQL free to look
    through all rows first. It does, where that seems cheaper.
    """
    nothing = rows.filter(pk__in=())  # which Django knows to be nothing, and does not ask
    try:
        query, values = newest.query.sql_with_params()
    except EmptyResultSet:  # a filter asks for more than its column can hold
        return nothing
    contains = " OR ".join(f"upper({column}::text) LIKE upper(%s)" for column in columns)
    pattern = f"%{connection.ops.prep_for_like_query(term.strip())}%"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM ({query}) AS newest WHERE {contains} LIMIT %s",
            [*values, *[pattern] * len(columns), FOUND],
        )
        found = [row_id for (row_id,) in cursor.fetchall()]
    return rows.filter(_among(found)) if found else nothing


def _among(ids: list[UUID]) -> Func:
    """One array, where `id__in` would be a thousand values, each to be quoted and parsed, in every part of a query."""
    array = Value(ids, ArrayField(UUIDField()))
    return Func(F("id"), array, template="%(expressions)s)", arg_joiner=" = ANY(", output_field=BooleanField())
