"""One look at everything, shared by all who watch.

Problem. Ten operators with the dashboard open, and the database is asked ten times a second, most of all when it is
slow already.

Guarantee. A process looks at most once a second, and spends at most a tenth of the time on it, however many watch. A
look that fails is shared as well: those who waited for it do not wait anew, one after the other.

Not guaranteed. Who had to wait five seconds to learn that the database is away is told so for another 45 s.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Generic, TypeVar

from django.template.loader import render_to_string
from django.utils import timezone

from apps.jobs.dashboard.charts import SPANS, Span, charts, counted
from apps.jobs.dashboard.levels import levels
from apps.jobs.dashboard.tallies import Tally

LEVELS_FRESH = 1.0
# A look may take this share of the time.
AT_MOST = 0.1
# More would not be read.
SHOWN_TASKS = 5

T = TypeVar("T")


class Shared(Generic[T]):
    """A value, or what kept it from being made; made again when it is asked for and too old."""

    def __init__(self, make: Callable[[], T], fresh: float) -> None:
        self._make, self._fresh = make, fresh
        self._lock = threading.Lock()
        self._value: T
        self._failure: Exception | None = None
        self._stale_at = float("-inf")

    def get(self) -> T:
        """Raises what the last look raised."""
        with self._lock:
            if time.monotonic() >= self._stale_at:
                self._look()
            elif self._failure is not None:
                raise self._failure.with_traceback(None)  # else it grows with each who asks
            return self._value

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._value, self._failure = self._make(), None
        except Exception as exc:
            self._failure = exc
            raise
        finally:
            took = time.monotonic() - began
            self._stale_at = began + max(self._fresh, took / AT_MOST)

    def forget(self) -> None:
        with self._lock:
            self._stale_at = float("-inf")


@dataclass(frozen=True)
class TaskTally:
    task: str
    tally: Tally


def look(span: Span) -> dict[str, str]:
    """The pieces of the page by name, as they are sent: HTML, and JSON for the charts."""
    return {"levels": _levels.get(), **_spans[span.name].get()}


def _render_levels() -> str:
    return render_to_string("jobs/dashboard/_levels.html", {"levels": levels()})


def _render_span(span: Span) -> dict[str, str]:
    now = timezone.now()
    by_task, by_step = counted(span, now)
    tallies = [TaskTally(task, tally) for task, tally in by_task.items()]
    tasks = {"slowest": _slowest(tallies), "failing": _failing(tallies), "span": span}
    return {
        "tasks": render_to_string("jobs/dashboard/_tasks.html", tasks),
        "charts": json.dumps(asdict(charts(span, now, by_step))),
    }


def _slowest(tallies: list[TaskTally]) -> list[TaskTally]:
    ran = [task for task in tallies if task.tally.slow_run is not None]
    return sorted(ran, key=lambda task: task.tally.slow_run or 0.0, reverse=True)[:SHOWN_TASKS]


def _failing(tallies: list[TaskTally]) -> list[TaskTally]:
    """Whatever failed for good before whatever was only tried again."""
    failed = [task for task in tallies if task.tally.failed or task.tally.retried]
    return sorted(failed, key=lambda task: (task.tally.failed, task.tally.retried), reverse=True)[:SHOWN_TASKS]


_levels = Shared(_render_levels, LEVELS_FRESH)
_spans = {span.name: Shared(partial(_render_span, span), span.fresh) for span in SPANS.values()}


def forget() -> None:
    """Look anew the next time."""
    _levels.forget()
    for shared in _spans.values():
        shared.forget()
