"""Progress that costs little, never runs backwards, and is a place to stop.

Problem. `update_state` for every item is thousands of writes a second; it divides by an empty total, and jumps back on
a retry.

Guarantee. At most one write a second, and one at the end; the share shown never falls, not even when the job is run
again; each write is also a checkpoint at which a cancelled job stops, and a worker that lost its lease too.

Not guaranteed. A task that never reports cannot be cancelled while it runs, except by its time limit. Within a
transaction (`atomic=True`, too) a report is a checkpoint alone: what it says is not shown.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar
from uuid import UUID

from celery.exceptions import Ignore

from apps.jobs import ledger
from apps.jobs.ids import job_id_of
from apps.jobs.models import Job

# Quick enough for a person, and nothing for the database.
REPORT_EVERY = 1.0

T = TypeVar("T")


class Cancelled(Ignore):
    """Someone asked to cancel this job, and it has stopped at a checkpoint."""


class Progress:
    def __init__(self, job_id: UUID | None, token: int | None) -> None:
        self.job_id = job_id
        self.token = token
        self.started = time.monotonic()
        self.last_report = float("-inf")
        self._highest: float | None = None

    @classmethod
    def of(cls, request: Any) -> "Progress":
        """The progress of the attempt that runs here. Outside the ledger (eager, broker-only) reports go nowhere."""
        if not hasattr(request, "progress_of_attempt"):
            token = request.get("token")
            request.progress_of_attempt = cls(job_id_of(request.id) if token is not None else None, token)
        return request.progress_of_attempt  # type: ignore[no-any-return]

    def track(self, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        if total is None and isinstance(items, Sized):
            total = len(items)
        done = 0
        self.report(done, total)
        for done, item in enumerate(items, start=1):
            yield item
            self._report_if_due(done, total)
        self._write(done, done if total is None else total, "")

    def _report_if_due(self, done: int, total: int | None) -> None:
        if time.monotonic() - self.last_report >= REPORT_EVERY:
            self._write(done, total, "")

    def report(self, done: int, total: int | None, note: str = "") -> None:
        """Throttled, except for the end and for a new note."""
        if note or done == total or time.monotonic() - self.last_report >= REPORT_EVERY:
            self._write(done, total, note)

    def _write(self, done: int, total: int | None, note: str) -> None:
        self.last_report = time.monotonic()
        if self.job_id is None or self.token is None:
            return
        if ledger.report(self.job_id, self.token, self._snapshot(done, total, note)):
            raise Cancelled("cancelled at a checkpoint")

    def _snapshot(self, done: int, total: int | None, note: str) -> dict[str, Any]:
        """`percent` is None while the total is unknown; `eta` is in seconds, at the pace so far."""
        percent = None if total is None else 100.0 if total == 0 else min(100.0, 100.0 * done / total)
        if percent is not None:
            self._highest = percent = max(self._share_so_far(), round(percent, 1))
        elapsed = time.monotonic() - self.started
        # A total is often an estimate, and there may be more than that.
        eta = round(elapsed / done * max(0, total - done), 1) if total and done else None
        return {"done": done, "total": total, "percent": percent, "eta": eta, "note": note}

    def _share_so_far(self) -> float:
        """The highest that was shown, by this attempt or by those before it."""
        if self._highest is None:
            shown = Job.objects.filter(pk=str(self.job_id)).values_list("progress", flat=True).first() or {}
            self._highest = float(shown.get("percent") or 0)
        return self._highest
