"""What the options of `apply_async` mean for a job's row."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import celery
from celery.utils.functional import maybe_list

from apps.jobs import origin, sensitive

# What a job carries to its message, as Celery's own message protocol names them.
CARRIED = frozenset(
    """link link_error chain chord group_id group_index shadow time_limit soft_time_limit headers reply_to argsrepr
    kwargsrepr ignore_result replaced_task_nesting stamped_headers""".split()
)
# What this process and its children say of an attempt, and no message may.
OURS = frozenset(
    "token ends_here claimed_at is_in_body raised says_it_failed again replacement progress_of_attempt".split()
)
# Celery takes all that it does not know in a request for the caller's own headers, and so hands it on to a retry.
NOT_THE_CALLERS = OURS | {"ledger", "due"}


def carried(options: Mapping[str, Any], asked_by: origin.Origin) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name in CARRIED and value is not None}
    for name in ("link", "link_error"):
        if name in kept:
            kept[name] = maybe_list(kept[name])
    for name in ("link", "link_error", "chain", "chord"):
        if name in kept:
            kept[name] = sensitive.seal_signatures(kept[name])
    for stamp in kept.get("stamped_headers", ()):
        kept[stamp] = options.get(stamp)
    if "headers" in kept:
        kept["headers"] = of_the_caller(kept["headers"])
    if asked_by.as_headers():
        kept["headers"] = {**asked_by.as_headers(), **kept.get("headers", {})}
    return kept


def of_the_caller(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name not in NOT_THE_CALLERS}


# Each raises OverflowError, as Celery does, for a time past the year 9999. PostgreSQL's calendar goes on, and nobody
# could read that row again: neither cancel the job, nor look at a list in which it stands.


def aware(eta: datetime | str | None, app: celery.Celery) -> datetime | None:
    """As Celery does: a time without a zone is in the app's own (UTC here)."""
    if eta is None:
        return None
    eta = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    zone: tzinfo = app.timezone
    return (eta.replace(tzinfo=zone) if eta.tzinfo is None else eta).astimezone(UTC)


def seconds(countdown: float | None, app: celery.Celery) -> float | None:
    if countdown is None:
        return None
    countdown = float(countdown)
    app.now() + timedelta(seconds=countdown)
    return countdown


def expiry(expires: datetime | str | float | None, app: celery.Celery) -> datetime | None:
    if isinstance(expires, int | float):
        now: datetime = app.now()
        return now + timedelta(seconds=expires)
    return aware(expires, app)
