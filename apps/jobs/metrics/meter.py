"""What a worker's main process counts of the messages that it serves.

Celery tells it of each step by an event, for every kind of pool; what it ignores, it says by the exception.
"""

import time
from collections.abc import Mapping
from typing import Any

from celery.exceptions import Ignore

from apps.jobs.attempt import Settled
from apps.jobs.metrics import counts
from apps.jobs.progress import Cancelled
from apps.jobs.snooze import Snooze

# Of Celery's events, those that say what became of a message.
COUNTED_EVENTS = {
    "task-started": "started",
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
}


def received(request: Any) -> None:
    counts.count("received", request.name, _queue(request))


def event(request: Any, kind: str, fields: Mapping[str, Any]) -> None:
    """Whether or not the event is sent to anybody."""
    counter = COUNTED_EVENTS.get(kind)
    if counter:
        counts.count(counter, request.name, _queue(request))
    due = request.request_dict.get("due")
    if kind == "task-started" and isinstance(due, int | float):
        counts.observe("wait", request.name, _queue(request), time.time() - due)
    if kind == "task-succeeded" and fields.get("runtime") is not None:
        counts.observe("run", request.name, _queue(request), fields["runtime"])


def ignored(request: Any, exc: BaseException) -> None:
    match exc:
        case Snooze():
            counts.count("snoozed", request.name, _queue(request))
        case Cancelled():
            counts.count("revoked", request.name, _queue(request))
        case Settled(counted_as=str(counter)):
            counts.count(counter, request.name, _queue(request))
        case Ignore(args=("duplicate",)):
            counts.count("duplicates", request.name, _queue(request))


def _queue(request: Any) -> str:
    return str((request.delivery_info or {}).get("routing_key"))
