"""Leases and rescue: how a job comes back from a worker that cannot bring it to its end.

Problem. A worker dies, freezes, is stopped, or does not know the task; a broker forgets what it was given.

Guarantee. Each such job goes back to `queued`, and nobody who held it can write to it any more: the next claim raises
its token. What happens too often to one job is a dead letter, so that a poison job ends. A row that cannot be moved at
all, whatever is wrong with it, keeps no other from its turn.

Not guaranteed. A worker that was only taken for dead goes on with its body, beside the next one's, until it next asks.
A row that cannot be moved has no end until it is mended: it is an error in the log each time it is tried.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone
from kombu.utils.json import dumps

from apps.jobs import chords, connections, ledger
from apps.jobs.failures import Failure, Kind
from apps.jobs.metrics import counts
from apps.jobs.models import Job

logger = logging.getLogger(__name__)

# So often may a job be lost before its body has begun. It is an innocent neighbour of what killed its workers; but
# perhaps it is what kills them, when it is handed to a process.
UNBEGUN_AT_MOST = 50
# Expired jobs that one transaction hands on: it takes a fraction of a second, in which their rows are locked.
AT_ONCE = 100
ENDS: dict[str, str] = {Job.State.DEAD: "failed", Job.State.CANCELLED: "revoked"}


def renew(job_ids: Iterable[UUID], worker_id: UUID) -> list[UUID]:
    """Prolong the leases of this worker's running jobs. Returns those that someone asked to cancel.

    A row that somebody holds is skipped until the next time: waiting for it would stop the whole worker. Nobody hands
    it on while it is held; but if that is for longer than a lease, whoever rescues may come before the next renewal.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET lease_until = clock_timestamp() + %s"
            " WHERE id = ANY(ARRAY("  # as in `ledger.TAKE_DUE`
            "   SELECT id FROM jobs_job WHERE id = ANY(%s) AND worker_id = %s AND state = 'running'"
            "   FOR NO KEY UPDATE SKIP LOCKED))"
            " RETURNING id, cancel_requested",
            [settings.JOBS_LEASE, list(job_ids), worker_id],  # type: ignore[list-item]  # psycopg knows intervals
        )
        return [job_id for job_id, cancel_requested in cursor.fetchall() if cancel_requested]


def release(worker_id: UUID, attempts: Mapping[UUID, int | None] | None = None, *, unless_begun: bool = False) -> int:
    """running → queued, uncounted, for a worker that stops in good order or has no process for these jobs.

    `attempts`: job → token, None for whichever this worker holds. → cancelled, for those that somebody wished to stop.
    `unless_begun`: but for those that have said so (`ledger.begin`).
    """
    ids, tokens = (None, None) if attempts is None else (list(attempts), list(attempts.values()))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_job SET {ledger.LET_GO}, attempts = attempts - 1"
            " WHERE worker_id = %s AND state = 'running' AND (%s::uuid[] IS NULL OR EXISTS ("
            "   SELECT 1 FROM unnest(%s::uuid[], %s::int[]) AS ours (job, under)"
            "   WHERE job = id AND coalesce(under, token) = token))"
            " AND (NOT %s OR begun_token IS DISTINCT FROM token)"
            " RETURNING id, cancel_requested",
            [0, worker_id, ids, ids, tokens, unless_begun],
        )
        released = cursor.fetchall()
        for job_id, cancel_requested in released:
            if cancel_requested:
                _by_itself(job_id, partial(ledger.cancel, job_id))
        ledger.wake_relay(cursor)
    return len(released)


def hand_back_unknown(job_id: UUID) -> None:
    """sent → queued, a while later, for a worker with newer code. → dead, if none came in `JOBS_UNKNOWN_TASK_GRACE`."""
    with transaction.atomic():
        job = _lock_sent(job_id)
        if job is None:
            return
        failure = Failure.unknown_task(job.task)
        since = _unknown_since(job)
        if since is None:
            _defer_unknown(job, [failure.as_entry()])
            return
        grace_ends = since + settings.JOBS_UNKNOWN_TASK_GRACE
        if grace_ends > timezone.now() or not _by_itself(job.id, partial(ledger.bury, job.id, None, failure)):
            _defer_unknown(job, [])


def _unknown_since(job: Job) -> datetime | None:
    """Since it last started: a worker that started it knew it, so what was before is of another deploy."""
    seen = [datetime.fromisoformat(error["at"]) for error in job.errors if error["kind"] == Kind.UNKNOWN_TASK]
    return next((at for at in seen if job.started_at is None or at > job.started_at), None)


def _defer_unknown(job: Job, errors: list[dict[str, Any]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_job SET {ledger.LET_GO}, {ledger.WITH_ERRORS} WHERE id = %s",
            [settings.JOBS_UNKNOWN_TASK_EVERY.total_seconds(), dumps(errors), job.id],
        )


def crashed(job_id: UUID, failure: Failure, worker_id: UUID | None = None, token: int | None = None) -> str | None:
    """running → queued after the worker was lost, or → dead when it has happened too often: a poison job ends.

    Name the worker, if it lost a child; and the token, if it is known: the same worker may have been given the job
    anew. A child may also be lost between its message and its claim: then the job is sent again.

    Returns the job's state then; None if it was another attempt's already.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id).first()
        if job is None:
            return None
        is_held = worker_id in (None, job.worker_id) and token in (None, job.token)
        if job.state == Job.State.RUNNING and is_held:
            _count_crash(job, failure)
        elif job.state == Job.State.SENT and token is None:
            _send_again(job)
        else:
            return None
    return job.state


def counted_as(state: str) -> str:
    """What became of a job whose worker was lost, in the words of Celery's events."""
    return ENDS.get(state, "retried")


def _send_again(job: Job) -> None:
    job.state = Job.State.QUEUED
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_job SET state = 'queued' WHERE id = %s", [job.id])
        ledger.wake_relay(cursor)


def failed_before_claim(job_id: UUID, failure: Failure) -> bool:
    """sent → queued, for a job whose message a worker has used up without a claim. Counted like a crash, so it ends.

    Returns whether there is such a job.
    """
    with transaction.atomic():
        job = _lock_sent(job_id)
        if job is not None:
            _count_crash(job, failure)
        return job is not None or Job.objects.filter(pk=job_id).exists()


def _lock_sent(job_id: UUID) -> Job | None:
    """A message may be here before the relay has committed that it is sent: wait for that, and then look."""
    job = Job.objects.select_for_update().filter(pk=job_id).first()
    return job if job is not None and job.state == Job.State.SENT else None


def hand_on_expired(limit: int = AT_ONCE) -> int:
    """Hand on the jobs whose lease ran out: their worker is dead, frozen or cut off. Returns how many.

    A worker claims more than it runs, so of what it leaves behind some has not begun, and that is no crash of theirs.
    After PostgreSQL itself was away nobody could renew, so the living get one lease's time to do it. A row that cannot
    be handed on is tried again a lease's time later, so that it does not stand before the others each time.
    """
    with transaction.atomic():
        expired = list(
            Job.objects.select_for_update(skip_locked=True)
            .filter(state=Job.State.RUNNING)
            .extra(
                where=[
                    "lease_until < statement_timestamp()",
                    "pg_postmaster_start_time() < statement_timestamp() - %s * interval '1 second'",
                ],
                params=[str(settings.JOBS_LEASE.total_seconds())],
            )
            .order_by("lease_until")[:limit]
        )
        handed_on = []
        for job in expired:
            if _by_itself(job.id, partial(_hand_on, job)):
                handed_on.append(job)
            else:
                _hold_longer(job)
    for job in handed_on:
        counts.count("rescued", job.task, job.queue)
        if job.state in ENDS:
            counts.count(ENDS[job.state], job.task, job.queue)
    return len(handed_on)


def _hand_on(job: Job) -> None:
    if _may_have_begun(job) or job.cancel_requested:
        _count_crash(job, Failure.worker_lost())
    else:
        _let_go(job, Failure.worker_lost("The worker that held this job was lost before the job began."))


def _hold_longer(job: Job) -> None:
    """Under the same token: if its worker is alive after all, it may still end the job."""
    Job.objects.filter(pk=job.id).update(lease_until=Now() + settings.JOBS_LEASE)


class LeaseWatch:
    """Hands on what has expired, for a process that looks every few seconds.

    If it could not look for half a lease's time, because the database was cut off, frozen or moved to another host,
    nobody could renew either. Then the living get one lease's time, as after a restart. Whoever looks seldom, or keeps
    short leases, must not take each of its own pauses for that: it would hand on nothing, ever.
    """

    def __init__(self) -> None:
        self.looked_at = time.monotonic()
        self.patient_until = 0.0

    def look(self) -> int:
        now, lease = time.monotonic(), settings.JOBS_LEASE.total_seconds()
        if now - self.looked_at > max(lease / 2, 2 * settings.JOBS_RESCUE_EVERY.total_seconds()):
            self.patient_until = now + lease
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")  # also while it is patient: is the database there?
        self.looked_at = now
        return hand_on_expired() if now >= self.patient_until else 0


def _may_have_begun(job: Job) -> bool:
    """A first attempt does not say so: that would be a statement for every job. It gets one crash too many at most."""
    return job.token in (1, job.begun_token) or job.attempts > UNBEGUN_AT_MOST


def _count_crash(job: Job, failure: Failure) -> None:
    if job.cancel_requested:
        ledger.end(job, Job.State.CANCELLED, failure)
        chords.part_died(job)
    elif job.crashes >= crashes_allowed(job):
        ledger.die(job, failure)
    else:
        _let_go(job, failure, crashes=1)


def _let_go(job: Job, failure: Failure, crashes: int = 0) -> None:
    job.state = Job.State.QUEUED
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_job SET {ledger.LET_GO}, crashes = crashes + %s, {ledger.WITH_ERRORS} WHERE id = %s",
            # The first crash is mostly a deploy or a host: run at once. More of them look like the job's own doing.
            [job.crashes, crashes, dumps([failure.as_entry()]), job.id],
        )
        ledger.wake_relay(cursor)


def crashes_allowed(job: Job) -> int:
    """As many as the task may fail, and a few for bad luck; three for a task that this process does not know."""
    task = current_app.tasks.get(job.task)
    max_retries = 3 if task is None or task.max_retries is None else task.max_retries
    return int(max_retries) + settings.JOBS_SPARE_CRASHES


def bury_without_message(job_id: UUID, failure: Failure) -> None:
    """sent → dead, for a job of which no message can be made. → queued, a lease's time later, if it cannot even die.

    The relay calls it in the transaction in which it took the job, with others.
    """
    if not _by_itself(job_id, partial(ledger.bury, job_id, None, failure)):
        with connection.cursor() as cursor:
            later = settings.JOBS_LEASE.total_seconds()
            cursor.execute(f"UPDATE jobs_job SET {ledger.LET_GO} WHERE id = %s AND state = 'sent'", [later, job_id])


# ARRAY: as in `ledger.TAKE_DUE`.
RESEND = """
    UPDATE jobs_job SET state = 'queued'
    WHERE id = ANY(ARRAY(
        SELECT id FROM jobs_job
        WHERE state = 'sent' AND sent_at < %s AND (%s::text[] IS NULL OR queue = ANY(%s::text[]))
        FOR UPDATE SKIP LOCKED))
"""


def resend(before: datetime, queues: Iterable[str] | None = None) -> int:
    """sent → queued, for jobs whose message the broker lost. A needless second message is dropped by the claim.

    A row that somebody holds is left for another time, at the latest when it was sent `JOBS_SENT_TIMEOUT` ago: waiting
    for it would stop the relay, and with it every queue.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(RESEND, [before, *[None if queues is None else list(queues)] * 2])
        sent_again: int = cursor.rowcount
        if sent_again:
            ledger.wake_relay(cursor)
    return sent_again


def _by_itself(job_id: UUID, move: Callable[[], object]) -> bool:
    """One of many moves in the caller's transaction. False if it raised: then it alone is undone, and logged.

    Whatever the error: one row must not keep the others from their turn, for ever. A lost database is everybody's.
    """
    try:
        with transaction.atomic():
            move()
    except Exception as exc:
        if connections.is_lost(exc):
            raise
        logger.exception("Job %s cannot be moved, its row has to be mended", job_id)
        return False
    return True
