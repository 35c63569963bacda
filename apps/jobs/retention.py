"""Retention: rows that nobody will ask for any more are deleted, and the ledger stays small.

Problem. A ledger that keeps everything fills the disk; one that is emptied by a single DELETE holds a transaction open
for minutes, in which nothing else of the table can be vacuumed.

Guarantee. What goes: jobs that succeeded or were cancelled after `JOBS_KEEP_SUCCEEDED`, dead jobs and resolved dead
letters after `JOBS_KEEP_DEAD`, workers, relays and beats that fell silent a week ago, minutes that were counted before
that, chords that can never start, the windows of rates that ended an hour ago. Batch by batch, each a transaction of
its own that waits for nobody's lock; cut short anywhere, the next sweep goes on.

What stays, however old: an open dead letter, and the job that it is about, with its list of errors; the parts of a
chord that still waits for their results; a job that holds its unique key for longer.

Not guaranteed. The disk space is free for new rows, and goes back to the system only with VACUUM FULL.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from apps.jobs import chords
from apps.jobs.models import Chord, Job

# A few milliseconds of work: no lock is held, and no vacuum is held up, for longer.
BATCH = 1_000
# A week to ask which worker ran a job.
KEEP_WORKERS = timedelta(days=7)
# A chart of this day last week.
KEEP_MINUTES = timedelta(days=8)
# Nothing counts in it any more; this is for a clock that differs from PostgreSQL's.
KEEP_WINDOWS = timedelta(hours=1)

# Each batch goes on where the last one ended: the rows that stay would otherwise be read again every time. ARRAY: as in
# `ledger.TAKE_DUE`, or a batch could be all there is.
ENDED_JOBS = """
    DELETE FROM jobs_job WHERE id = ANY(ARRAY(
        SELECT id FROM jobs_job AS job
        WHERE state = ANY(%s) AND state IN ('succeeded', 'dead', 'cancelled')
          AND finished_at >= %s AND finished_at < %s
          AND (unique_key IS NULL OR unique_expires_at < statement_timestamp())
          AND NOT EXISTS (SELECT 1 FROM jobs_deadletter WHERE job_id = job.id AND state = 'open')
          AND NOT EXISTS (SELECT 1 FROM jobs_chord AS chord WHERE chord.id::text = options->>'group_id')
        ORDER BY finished_at LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING finished_at
"""

RESOLVED_LETTERS = """
    DELETE FROM jobs_deadletter WHERE id = ANY(ARRAY(
        SELECT id FROM jobs_deadletter
        WHERE state <> 'open' AND resolved_at >= %s AND resolved_at < %s
        ORDER BY resolved_at LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING resolved_at
"""

GONE_WORKERS = """
    DELETE FROM jobs_worker WHERE id = ANY(ARRAY(
        SELECT id FROM jobs_worker
        WHERE heartbeat_at >= %s AND heartbeat_at < %s
          AND NOT EXISTS (SELECT 1 FROM jobs_job WHERE worker_id = jobs_worker.id AND jobs_job.state = 'running')
        ORDER BY heartbeat_at LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING heartbeat_at
"""

GONE_HEARTBEATS = """
    DELETE FROM jobs_heartbeat WHERE name = ANY(ARRAY(
        SELECT name FROM jobs_heartbeat
        WHERE heartbeat_at >= %s AND heartbeat_at < %s
        ORDER BY heartbeat_at LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING heartbeat_at
"""

MINUTES = """
    DELETE FROM {table} WHERE {key} = ANY(ARRAY(
        SELECT {key} FROM {table}
        WHERE minute >= %s AND minute < %s
        ORDER BY minute LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING minute
"""
TABLES_OF_MINUTES = {"jobs_taskminute": "id", "jobs_queueminute": "id", "jobs_fleetminute": "minute"}

ABANDONED_CHORDS = """
    SELECT chord.id FROM jobs_chord AS chord
    WHERE created_at < %s
      AND NOT EXISTS (
          SELECT 1 FROM jobs_job
          WHERE state IN ('queued', 'sent', 'running') AND options->>'group_id' = chord.id::text)
    LIMIT %s
    FOR UPDATE SKIP LOCKED
"""

# A place counts for as long as its rate says, which `limits` writes at the key's end: ".../30/1/minute".
WINDOW_ENDS = """
    (SELECT max(taken) FROM unnest(taken_at) AS taken) + interval '1 second' * extract(epoch FROM
        replace(substring(key FROM '[0-9]+/(?:second|minute|hour|day|month|year)$'), '/', ' ')::interval)
"""
ENDED_WINDOWS = f"""
    DELETE FROM jobs_ratewindow WHERE key = ANY(ARRAY(
        SELECT key FROM jobs_ratewindow
        WHERE {WINDOW_ENDS} >= %s AND {WINDOW_ENDS} < %s
        ORDER BY {WINDOW_ENDS} LIMIT %s
        FOR UPDATE SKIP LOCKED))
    RETURNING {WINDOW_ENDS}
"""

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.get_fixed_timezone(0))


@dataclass(frozen=True)
class Swept:
    """How many rows of each were deleted."""

    jobs: int
    letters: int
    workers: int
    chords: int
    minutes: int = 0
    windows: int = 0


def sweep(now: datetime | None = None) -> Swept:
    """Delete what is old enough. Call it outside a transaction; a second time at once finds nothing."""
    now = now or timezone.now()
    finished, died = now - settings.JOBS_KEEP_SUCCEEDED, now - settings.JOBS_KEEP_DEAD
    return Swept(
        # First, for a chord keeps its parts.
        chords=_abandon_chords(died),
        letters=_delete(RESOLVED_LETTERS, died),
        jobs=_delete(ENDED_JOBS, finished, [Job.State.SUCCEEDED, Job.State.CANCELLED])
        + _delete(ENDED_JOBS, died, [Job.State.DEAD]),
        workers=_delete(GONE_WORKERS, now - KEEP_WORKERS) + _delete(GONE_HEARTBEATS, now - KEEP_WORKERS),
        minutes=sum(
            _delete(MINUTES.format(table=table, key=key), now - KEEP_MINUTES)
            for table, key in TABLES_OF_MINUTES.items()
        ),
        windows=_delete(ENDED_WINDOWS, now - KEEP_WINDOWS),
    )


def _delete(statement: str, before: datetime, *states: Any) -> int:
    deleted, since = 0, LONG_AGO
    while True:
        batch = _delete_batch(statement, [*states, since, before, BATCH])
        deleted += len(batch)
        if len(batch) < BATCH:
            return deleted
        since = max(batch)


def _delete_batch(statement: str, values: list[Any]) -> list[datetime]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [row[0] for row in cursor.fetchall()]


def _abandon_chords(before: datetime) -> int:
    """Their bodies become dead letters. Chords are few, and abandoned ones fewer: one batch a night is enough."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(ABANDONED_CHORDS, [before, BATCH])
            abandoned = [row[0] for row in cursor.fetchall()]
        for chord in Chord.objects.filter(pk__in=abandoned):
            chords.abandon(chord)
    return len(abandoned)
