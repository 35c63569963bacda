"""The charts: five questions about a span of time, each answered by lines over the same times."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from apps.jobs.dashboard.tallies import Tally, tallies_by_both

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The begin of the step that a minute is in, as seconds since the epoch.
STEP = "extract(epoch FROM date_bin(%s, minute, %s))::bigint"


@dataclass(frozen=True)
class Span:
    """`length` back from now, in steps of `step`; looked at again after `fresh` seconds."""

    name: str
    label: str
    length: timedelta
    step: timedelta
    fresh: float

    def steps(self, now: datetime) -> list[int]:
        """The begin of each step in seconds since the epoch; the last one is not over yet."""
        step = int(self.step.total_seconds())
        last = int(now.timestamp()) // step * step
        return list(range(last - int(self.length.total_seconds()) + step, last + 1, step))

    def since(self, now: datetime) -> datetime:
        return datetime.fromtimestamp(self.steps(now)[0], UTC)


# The counts come every two seconds. What ten minutes add to a day's chart is not seen in two.
SPANS = {
    span.name: span
    for span in (
        Span("hour", "Last hour", timedelta(hours=1), timedelta(minutes=1), fresh=2),
        Span("day", "Last day", timedelta(days=1), timedelta(minutes=10), fresh=30),
    )
}


@dataclass(frozen=True)
class Line:
    """unit: jobs, seconds or percent. A value is None where nothing is known: the line has a gap there."""

    label: str
    unit: str
    values: list[float | None]


@dataclass(frozen=True)
class Chart:
    slug: str
    lines: list[Line]


@dataclass(frozen=True)
class Charts:
    """`times` are seconds since the epoch, the same for all lines."""

    times: list[int]
    charts: list[Chart]


def counted(span: Span, now: datetime) -> "tuple[dict[str, Tally], dict[int, Tally]]":
    """By task, and by step."""
    by_task, by_step = tallies_by_both("task", STEP, span.since(now), span.step, EPOCH)
    return by_task, by_step


def charts(span: Span, now: datetime, tallies: Mapping[int, Tally]) -> Charts:
    """`tallies` by step."""
    times, since = span.steps(now), span.since(now)
    return Charts(
        times,
        [
            Chart("waiting", _waiting(times, _depths(span, since))),
            Chart("took", _took(times, tallies)),
            Chart("failed", _failed(times, tallies)),
            Chart("retried", _retried(times, tallies)),
            Chart("busy", [Line("busy", "percent", _along(times, _busy(span, since), lambda share: share))]),
        ],
    )


def _waiting(times: list[int], depths: Mapping[str, dict[int, int]]) -> list[Line]:
    """Queues of an earlier deploy are one line, however many they are."""
    known = [Line(queue, "jobs", _along(times, depths.get(queue, {}), float)) for queue in settings.JOBS_QUEUES]
    others = Counter[int]()
    for queue in depths.keys() - settings.JOBS_QUEUES.keys():
        others.update(depths[queue])
    return [*known, Line("other queues", "jobs", _along(times, others, float))] if others else known


def _took(times: list[int], tallies: Mapping[int, Tally]) -> list[Line]:
    """The middle, and what one in twenty has to bear."""
    return [
        Line("wait, median", "seconds", _along(times, tallies, lambda tally: tally.wait(0.5))),
        Line("wait, 95 %", "seconds", _along(times, tallies, lambda tally: tally.wait(0.95))),
        Line("run, median", "seconds", _along(times, tallies, lambda tally: tally.run(0.5))),
        Line("run, 95 %", "seconds", _along(times, tallies, lambda tally: tally.run(0.95))),
    ]


def _failed(times: list[int], tallies: Mapping[int, Tally]) -> list[Line]:
    return [
        Line("failed", "jobs", _along(times, tallies, lambda tally: tally.failed)),
        Line("of all that ended", "percent", _along(times, tallies, lambda tally: tally.failure_rate)),
    ]


def _retried(times: list[int], tallies: Mapping[int, Tally]) -> list[Line]:
    return [
        Line("tried again", "jobs", _along(times, tallies, lambda tally: tally.retried)),
        Line("of all attempts", "percent", _along(times, tallies, lambda tally: tally.retry_rate)),
    ]


def _along(times: list[int], found: Mapping[int, Any], value: Callable[[Any], float | None]) -> list[float | None]:
    return [value(found[time]) if time in found else None for time in times]


def _depths(span: Span, since: datetime) -> dict[str, dict[int, int]]:
    depths: dict[str, dict[int, int]] = {}
    for queue, time, waiting in _rows(
        f"SELECT queue, {STEP}, max(waiting) FROM jobs_queueminute WHERE minute >= %s GROUP BY 1, 2", span, since
    ):
        depths.setdefault(queue, {})[time] = waiting
    return depths


def _busy(span: Span, since: datetime) -> dict[int, float]:
    """Shares of the workers' slots; a step without a worker has none."""
    query = (
        f"SELECT {STEP}, sum(busy)::float / nullif(sum(size), 0) FROM jobs_fleetminute WHERE minute >= %s GROUP BY 1"
    )
    return dict(_rows(query, span, since))


def _rows(query: str, span: Span, since: datetime) -> Iterator[tuple[Any, ...]]:
    values: list[Any] = [span.step, EPOCH, since]
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        yield from cursor.fetchall()
