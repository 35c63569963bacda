"""A list whose address, or choice, makes no sense is a 400, and never an error of the server.

Problem. Django lets everybody who may look at a list put any lookup of its columns into the address, whether a filter
makes it or not. Many of those fail in the database, want an extension that is not there, or keep it busy for minutes.

Guarantee. A column may be compared, as the filters do it, and is not searched for words: the search field does that.

Not guaranteed. Lists that come with a library, like that of the users, answer as the library has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import MAXYEAR
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, ValidationError
from django.db import DataError
from django.http import HttpRequest, HttpResponse

# Of the table's own columns: what filters put into an address, and what somebody may type who looks for a number.
COMPARISONS = {"", "exact", "in", "isnull", "isempty", "gt", "gte", "lt", "lte"}
DATE_PARTS = {"year", "month", "day"}


@contextmanager
def nonsense_is_refused() -> Iterator[None]:
    """Of what the database alone knows to be nonsense: Python takes 23 hours for a time zone."""
    try:
        yield
    except DataError as exc:
        raise BadRequest(str(exc)) from exc


class StrictAdmin(admin.ModelAdmin[Any]):
    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        column, _, comparison = lookup.partition("__")
        if comparison in DATE_PARTS:
            return column == self.date_hierarchy and _is_part_of_a_date(value)
        return comparison in COMPARISONS and super().lookup_allowed(lookup, value, request)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Django fails over a `_to_field=` that is empty."""
        return super().get_object(request, object_id, from_field or None)

    @nonsense_is_refused()
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        for chosen in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                self.opts.pk.to_python(chosen)
            except ValidationError:
                raise BadRequest(f"{chosen!r} is no id.") from None
        return super().changelist_view(request, extra_context)


def _is_part_of_a_date(value: str) -> bool:
    """Django reckons the first day after the year or the month that it shows: after the last year there is none."""
    return value.isascii() and value.isdecimal() and len(value) <= 4 and int(value) < MAXYEAR
