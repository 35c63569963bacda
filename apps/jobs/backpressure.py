"""Backpressure: a queue that cannot grow without end.

Problem. A producer that is faster than its workers fills the queue until memory, patience or the disk ends.

Guarantee. Past a queue's `max_depth` (config/queues.py) `.delay()` raises `QueueFull`, nothing is written, and a view
answers 503 with `Retry-After`. A running job that meets a full queue is snoozed.

Not guaranteed. The depth is counted once a second in each process, so the limit may be overshot by a second's worth.
Retries, rescues and replays are never refused, nor is what comes after a job (a link, the rest of its chain, a chord's
body): all that was accepted already.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.jobs import queues

COUNT_EVERY = 1.0
# Long enough for a worker to get somewhere, short enough for a person to wait.
RETRY_AFTER = 10

_counted: dict[str, tuple[float, int]] = {}
_is_accepted: ContextVar[bool] = ContextVar("is_accepted", default=False)


class QueueFull(Exception):
    """The queue holds as many waiting jobs as it may."""

    def __init__(self, queue: str, max_depth: int) -> None:
        super().__init__(f"The queue {queue!r} is full: {max_depth:,} jobs are waiting.")
        self.queue = queue
        self.max_depth = max_depth
        self.retry_after = RETRY_AFTER

    def __reduce__(self) -> tuple[type["QueueFull"], tuple[str, int]]:
        return type(self), (self.queue, self.max_depth)


@contextmanager
def accepted() -> Iterator[None]:
    """What is recorded meanwhile was asked for before, as a part of something larger. Refused now, it would have the
    body before it run again and again, in vain.
    """
    outside = _is_accepted.set(True)
    try:
        yield
    finally:
        _is_accepted.reset(outside)


def admit(queue: str, jobs: int = 1) -> None:
    """Raise `QueueFull` if the queue has no room for so many more."""
    policy = settings.JOBS_QUEUES.get(queue)
    if policy is None or _is_accepted.get():
        return
    if _depth(queue, policy.max_depth) + jobs > policy.max_depth:
        raise QueueFull(queue, policy.max_depth)
    _counted[queue] = (_counted[queue][0], _counted[queue][1] + jobs)


def _depth(queue: str, at_most: int) -> int:
    now = time.monotonic()
    counted_at, count = _counted.get(queue, (float("-inf"), 0))
    if now - counted_at > COUNT_EVERY:
        count = queues.depth(queue, at_most)
        _counted[queue] = (now, count)
    return count


class QueueFullMiddleware:
    """Answers `QueueFull` from any view with 503 and `Retry-After`; the view's transaction is rolled back."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, QueueFull):
            return None
        response = render(request, "503.html", {"reason": str(exception)}, status=503)
        response["Retry-After"] = str(exception.retry_after)
        return response
