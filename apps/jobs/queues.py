"""Queues as an operator sees them: how many wait, how old the oldest is, pause and resume.

A paused queue's jobs stay queued in the ledger. Nothing is revoked: the relay sends no more of them, and a message
that was on its way is put back by the worker that receives it.

Not guaranteed. A pause stops no job that runs already, and no broker-only one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from apps.jobs.models import QueuePause

# Longer than any maintenance. A date at the end of the calendar may be one in UTC that Python cannot read.
LONGEST_PAUSE = timedelta(days=366)
TOO_LONG = "A pause ends within a year, or when somebody resumes the queue."

LIMITED_DEPTH = """
    SELECT count(*) FROM (
        SELECT 1 FROM jobs_job
        WHERE queue = %s AND (state = 'queued' AND run_at <= statement_timestamp() OR state = 'sent')
        LIMIT %s) AS waiting
"""

# One scan for each partial index: `state IN (…)` fits none of them, and would read every job that ever ran.
STATUS = """
    SELECT queue, sum(waiting)::int, sum(later)::int, sum(running)::int,
           extract(epoch FROM statement_timestamp() - min(oldest))::float
    FROM (
        SELECT queue,
               count(*) FILTER (WHERE run_at <= statement_timestamp()) AS waiting,
               count(*) FILTER (WHERE run_at > statement_timestamp()) AS later,
               0 AS running,
               min(run_at) FILTER (WHERE run_at <= statement_timestamp()) AS oldest
        FROM jobs_job WHERE state = 'queued' GROUP BY queue
        UNION ALL
        SELECT queue, count(*), 0, 0, min(run_at) FROM jobs_job WHERE state = 'sent' GROUP BY queue
        UNION ALL
        SELECT queue, 0, 0, count(*), NULL FROM jobs_job WHERE state = 'running' GROUP BY queue
    ) AS live GROUP BY queue
"""


@dataclass(frozen=True)
class QueueStatus:
    """waiting: due and not started; later: due in the future; oldest: age of the oldest waiting job, in seconds."""

    name: str
    waiting: int = 0
    later: int = 0
    running: int = 0
    oldest: float | None = None


def depth(queue: str, at_most: int) -> int:
    """How many jobs wait, counted up to `at_most`, so that the price does not grow with the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(LIMITED_DEPTH, [queue, at_most])
        return int(cursor.fetchone()[0])


def statuses() -> list[QueueStatus]:
    """Every known queue, and any other that has live jobs."""
    with connection.cursor() as cursor:
        cursor.execute(STATUS)
        found = {row[0]: QueueStatus(*row) for row in cursor.fetchall()}
    return [found.pop(name, QueueStatus(name)) for name in settings.JOBS_QUEUES] + list(found.values())


def pause(queue: str, reason: str = "", until: datetime | None = None, by: Any = None) -> None:
    """A second time replaces the reason and the end. Raises ValueError for an unknown queue or a far end."""
    if queue not in settings.JOBS_QUEUES:
        raise ValueError(f"There is no queue {queue!r}. There are: {', '.join(settings.JOBS_QUEUES)}.")
    if until and until > timezone.now() + LONGEST_PAUSE:
        raise ValueError(TOO_LONG)
    QueuePause.objects.update_or_create(
        queue=queue, defaults={"reason": reason, "until": until, "paused_at": timezone.now(), "paused_by": by}
    )


def resume(queue: str) -> bool:
    """Whether it was paused. Its jobs start at once."""
    with transaction.atomic():
        deleted, _ = QueuePause.objects.filter(queue=queue).delete()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify('nightshift_due', '')")
    return bool(deleted)
