"""Pages through a table whose rows nobody wants to count.

`SELECT count(*)` of a million jobs takes a second, for a number that is wrong the next moment. So the newest `COUNTED`
rows are counted and paged through, whatever the filter; who needs an older one filters more.
"""

from collections.abc import Sequence
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.db.models.expressions import Col
from django.db.models.lookups import Exact
from django.utils.functional import cached_property

from apps.jobs.models import Job

# Small enough to count in milliseconds.
COUNTED = 10_000


class ShallowPaginator(Paginator[Any]):
    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNTED].count())

    @property
    def is_cut(self) -> bool:
        """Whether there may be more rows than the pages show."""
        return self.count >= COUNTED


class JobPaginator(ShallowPaginator):
    """The newest jobs, from each of the indexes on live states, and from that of the ended ones.

    One query over all states could use none of them: they are partial, so that ended jobs cost the hot path nothing.
    """

    @cached_property
    def count(self) -> int:
        found = [part.order_by()[:COUNTED].values("pk") for part in by_index(self.object_list)]
        return min(COUNTED, found[0].union(*found[1:], all=True).count())

    def page(self, number: Any) -> "Page[Any]":
        number = self.validate_number(number)
        last = number * self.per_page
        return Page(newest(self.object_list, last)[last - self.per_page :], number, self)


def by_index(jobs: Any) -> "list[QuerySet[Job]]":
    """The same jobs in parts, each of which an index can find.

    Those that ended are left out where one live state is asked for. PostgreSQL sees that no state is two others, but
    not that it is none of a list: it would read all of them, and find nothing.
    """
    live = [jobs.filter(state=state) for state in Job.LIVE]
    asked = _asked_states(jobs)
    return live if asked and asked.isdisjoint(Job.ENDED) else [jobs.filter(state__in=Job.ENDED), *live]


def _asked_states(jobs: Any) -> set[str]:
    """By the filter, which has them side by side."""
    exact = [condition for condition in jobs.query.where.children if isinstance(condition, Exact)]
    return {
        condition.rhs for condition in exact if isinstance(condition.lhs, Col) and condition.lhs.target.name == "state"
    }


def newest(jobs: Any, count: int) -> "QuerySet[Job]":
    """The query's order has to be by `created_at`, which is what the indexes know."""
    parts = [part[:count] for part in by_index(jobs)]
    return parts[0].union(*parts[1:], all=True).order_by(*jobs.query.order_by)[:count]


def newest_values(jobs: Any, count: int, columns: Sequence[str]) -> "QuerySet[Job, Any]":
    """Of at least the `count` newest jobs: that many of each part."""
    parts = [part[:count].values(*columns) for part in by_index(jobs)]
    newest: QuerySet[Job, Any] = parts[0].union(*parts[1:], all=True)
    return newest
