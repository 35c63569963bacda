"""The ledger: the transitions of a job, and their SQL.

Problem. A broker may lose a message, deliver it twice, or deliver it late; a worker may die between any two lines.

Guarantee. A job is a row, written in the transaction that asked for it. Each transition is one conditional UPDATE, so
of two that race, one wins and the other changes nothing. Whoever runs a job holds its *token*, which every claim
raises: a worker that lost its lease cannot end, retry or bury the attempt that came after it.

Not guaranteed. A job may be *started* more than once, when its worker died or was taken for dead; only its end is
written once. Code that acts on the world outside the database has to be safe to run twice.

The life of a job, in calling order: record → take_due (relay) → claim → begin → succeed | retry | snooze | bury.
What brings a job back whose worker is gone is in `apps.jobs.rescue`. `docs/lifecycle.md` draws all of it.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any
from uuid import UUID

from celery.exceptions import Ignore
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import DeadlockDetected

from apps.jobs import chords, errbacks, sql
from apps.jobs.failures import Failure
from apps.jobs.ids import uuid7
from apps.jobs.jsonb import dumps
from apps.jobs.models import DeadLetter, Job, MessageDecoder

# The relay listens here. A notification says "something is due", never what: the rows say that.
CHANNEL = "nightshift_due"


@dataclass(kw_only=True, slots=True)
class NewJob:
    """What `record` writes. `delay` counts in seconds from now by the database's clock; `run_at` is absolute."""

    id: UUID = field(default_factory=uuid7)
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    queue: str
    priority: int | None = None
    retries: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    expires_at: datetime | None = None
    unique_key: str | None = None
    unique_until: str | None = None
    unique_for: float | None = None
    owner_id: int | None = None
    parent_id: UUID | None = None
    root_id: UUID | None = None
    replay_of: UUID | None = None


NEW_JOB_FIELDS = [field.name for field in fields(NewJob)]


@dataclass(frozen=True)
class Recorded:
    """The job that stands for the wish. `created` is false if it was there already."""

    id: UUID
    created: bool


class LeaseLost(Ignore):
    """Another worker holds this job now, or it has ended."""


COLUMNS = """
    id, task, args, kwargs, options, queue, priority, retries, run_at, expires_at,
    unique_key, unique_until, unique_expires_at, owner_id, parent_id, root_id, replay_of
"""

# Fields that are not simply a column of their name.
FROM_NOW = "statement_timestamp() + %s::float * interval '1 second'"
COLUMN_AND_VALUE = {name: (name, "%s::jsonb") for name in ("args", "kwargs", "options")} | {
    "delay": ("run_at", FROM_NOW),
    "unique_for": ("unique_expires_at", FROM_NOW),
}


@cache
def record_one(given: tuple[str, ...]) -> str:
    """The INSERT for a job with these fields: each one more costs, and most jobs have seven of them.

    A notification wakes a relay, so it is only sent for what is due before the relay's next poll.
    """
    columns, values = zip(*(COLUMN_AND_VALUE.get(name, (name, "%s")) for name in given), strict=True)
    return f"""
        INSERT INTO jobs_job ({", ".join(columns)}) VALUES ({", ".join(values)})
        ON CONFLICT DO NOTHING
        RETURNING id, CASE WHEN run_at < statement_timestamp() + interval '1 second' THEN pg_notify('{CHANNEL}', '') END
    """


RECORD_MANY = f"""
    WITH made AS (
        INSERT INTO jobs_job ({COLUMNS})
        SELECT
            id, task, args, kwargs, options, queue, priority, retries,
            coalesce(run_at, statement_timestamp() + coalesce(delay, 0) * interval '1 second'), expires_at,
            unique_key, unique_until, statement_timestamp() + unique_for * interval '1 second',
            owner_id, parent_id, root_id, replay_of
        FROM json_to_recordset(%s::json) AS new (
            id uuid, task text, args jsonb, kwargs jsonb, options jsonb, queue text, priority smallint, retries int,
            run_at timestamptz, delay float, expires_at timestamptz, unique_key text, unique_until text,
            unique_for float, owner_id int, parent_id uuid, root_id uuid, replay_of uuid)
        ON CONFLICT DO NOTHING
        RETURNING id, run_at
    ), told AS (
        SELECT pg_notify('{CHANNEL}', '') WHERE EXISTS (
            SELECT 1 FROM made WHERE run_at < statement_timestamp() + interval '1 second')
    )
    SELECT id, (SELECT count(*) FROM told) FROM made
"""


_gathered: ContextVar[list[NewJob] | None] = ContextVar("gathered", default=None)


@contextmanager
def together() -> Iterator[None]:
    """What is recorded meanwhile is written in one statement at the end, for a caller in a transaction.

    But for a job with a unique key, in whose place there may be another.
    """
    if _gathered.get() is not None:
        yield
        return
    jobs: list[NewJob] = []
    outside = _gathered.set(jobs)
    try:
        yield
    finally:
        _gathered.reset(outside)
    if jobs:
        record(jobs)


def record(jobs: Sequence[NewJob]) -> list[Recorded]:
    """Write jobs in the caller's transaction, in one round trip.

    A second time with the same id, or with a unique key that a live job holds, writes nothing and returns the job
    that is there.
    """
    gathered = _gathered.get()
    if gathered is not None and not any(job.unique_key for job in jobs):
        gathered += jobs
        return [Recorded(job.id, True) for job in jobs]
    made = _insert(jobs)
    return [Recorded(job.id, True) if job.id in made else _existing(job) for job in jobs]


def _insert(jobs: Sequence[NewJob]) -> set[UUID]:
    if len(jobs) == 1:
        row = _as_row(jobs[0])
        made = sql.run(record_one(tuple(row)), list(row.values()))
    else:
        made = sql.run(RECORD_MANY, [dumps([_as_object(job) for job in jobs])])
    return {row[0] for row in made}


def _as_row(job: NewJob) -> dict[str, Any]:
    """What the job has; the table's defaults are for the rest. Arguments in Celery's own dialect of JSON."""
    row = _given(job)
    if "run_at" in row:
        row.pop("delay", None)
    for name in ("args", "kwargs", "options"):
        row[name] = dumps(row[name])
    return row


def _given(job: NewJob) -> dict[str, Any]:
    return {name: value for name in NEW_JOB_FIELDS if (value := getattr(job, name)) is not None}


def _as_object(job: NewJob) -> dict[str, Any]:
    """The same as one JSON object, in which times and ids are plain text for PostgreSQL to read."""
    row = _given(job)
    for name in ("id", "parent_id", "root_id", "replay_of", "run_at", "expires_at"):
        if name in row:
            row[name] = str(row[name])
    return row


def _existing(job: NewJob) -> Recorded:
    """Find the job in whose favour an INSERT did nothing; write ours after all if that one has just let go."""
    while True:
        there = Job.objects.filter(pk=job.id).only("task", "options").first()
        if there is not None:
            chords.exists_already(there, job.options, job.queue)
            return Recorded(job.id, False)
        if job.unique_key is not None:
            _let_go_of_expired_key(job.unique_key)
            holder = Job.objects.filter(unique_key=job.unique_key).values_list("pk", flat=True).first()
            if holder:
                return Recorded(holder, False)
        if _insert([job]):
            return Recorded(job.id, True)


def let_go_of_keys(jobs: Iterable[NewJob]) -> None:
    """Of ended jobs that hold them for a time (`unique_for`), so that these are recorded. A live job keeps its key."""
    keys = [job.unique_key for job in jobs if job.unique_key is not None]
    Job.objects.filter(unique_key__in=keys, state__in=Job.ENDED).update(unique_key=None)


def _let_go_of_expired_key(key: str) -> None:
    Job.objects.filter(unique_key=key, unique_expires_at__lte=timezone.now(), state__in=Job.ENDED).update(
        unique_key=None
    )


# --- Relay ------------------------------------------------------------------------------------------------------------

PAUSED = "SELECT queue FROM jobs_queuepause WHERE until IS NULL OR until > statement_timestamp()"

# The broker holds at most so many of a queue's jobs: enough to keep the workers busy until the relay's next turn. The
# rest of a backlog waits in the ledger, so a broker's memory is bounded, and a wiped one is soon filled again.
WINDOW = 5_000

# One index scan a queue, so that a flood in one does not stand before the others.
OPEN_QUEUES = f"(SELECT name FROM unnest(%s::text[]) AS name WHERE name NOT IN ({PAUSED})) AS open"

# Until the commit nobody else has these jobs. A relay that is frozen as it publishes keeps its session, because the
# kernel answers for it: this ends it, and they are another relay's. It is more than any broker takes for a batch.
#
# ARRAY and not a join: with statistics from when the table was empty, PostgreSQL chooses the batch anew for each row of
# the table, which takes a minute where there is a backlog, and takes more than the limit.
TAKE_DUE = f"""
    UPDATE jobs_job AS job
    SET state = 'sent', sent_at = clock_timestamp()
    FROM (SELECT set_config('idle_in_transaction_session_timeout', '2min', true)) AS watched
    WHERE job.id = ANY(ARRAY(SELECT due.id FROM {OPEN_QUEUES} CROSS JOIN LATERAL (
        SELECT id FROM jobs_job
        WHERE state = 'queued' AND queue = open.name AND run_at <= statement_timestamp()
        ORDER BY run_at
        LIMIT least(%s, %s - (SELECT count(*) FROM (
            SELECT 1 FROM jobs_job WHERE state = 'sent' AND queue = open.name LIMIT %s) AS sent))
        FOR UPDATE SKIP LOCKED
    ) AS due))
    RETURNING job.id, job.task, job.queue, job.priority, job.retries, job.parent_id, job.root_id,
              extract(epoch FROM job.run_at)::float, job.args, job.kwargs, job.options
"""

NEXT_DUE = f"""
    SELECT extract(epoch FROM min(next.run_at) - clock_timestamp())::float
    FROM {OPEN_QUEUES} CROSS JOIN LATERAL (
        SELECT run_at FROM jobs_job WHERE state = 'queued' AND queue = open.name ORDER BY run_at LIMIT 1
    ) AS next
"""


@dataclass(frozen=True)
class Due:
    """A job on its way to the broker."""

    id: UUID
    task: str
    queue: str
    priority: int | None
    retries: int
    parent_id: UUID | None
    root_id: UUID | None
    due: float  # seconds since the epoch
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]


def take_due(queues: Iterable[str], limit: int) -> list[Due]:
    """queued → sent, for at most `limit` due jobs of each queue that is not paused.

    Call it in a transaction and publish before the commit: if publishing raises, or the relay dies, the rows are
    still queued. Rows that another relay holds are skipped. What has waited longest comes first.
    """
    with connection.cursor() as cursor:
        cursor.execute(TAKE_DUE, [list(queues), limit, WINDOW, WINDOW])
        taken = [Due(*row[:8], *map(_loads, row[8:])) for row in cursor.fetchall()]
    return sorted(taken, key=attrgetter("due", "id"))  # of those that were recorded together, as they were given


def _loads(value: str) -> Any:
    return json.loads(value, cls=MessageDecoder)


def next_due(queues: Iterable[str]) -> float | None:
    """Seconds until the next queued job of these queues is due (below zero: overdue); None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(NEXT_DUE, [list(queues)])
        seconds: float | None = cursor.fetchone()[0]
    return seconds


# --- Worker -----------------------------------------------------------------------------------------------------------

# A claim, and an end that is a transaction by itself, need not wait for the disk: if PostgreSQL crashes in that moment
# it forgets them, and the job runs again, as after any crash; of two attempts that then have the same token, the first
# to end writes the end. What others rely on is never hurried like this: not a
# job's acceptance, and not the work of a transaction around (the setting then is what it was).
WITHOUT_WAITING = """
    (SELECT set_config(
        'synchronous_commit', CASE WHEN %s THEN 'off' ELSE current_setting('synchronous_commit') END, true
    )) AS quick
"""

# A worker's main process waits for these two statements, with all that it holds: no lease is renewed, no answer read. A
# relay that was frozen in the middle of its batch, or a person at a psql prompt, may hold a row for ever.
WITHOUT_WAITING_FOR_LOCKS = """
    (SELECT set_config('lock_timeout', coalesce(nullif(current_setting('lock_timeout'), '0'), '2s'), true)) AS brief
"""

# A message may be older than its row: of a retry that waits for its time, or of a queue that was paused since.
#
# VALUES and not arrays: how long an array is, the plan of a prepared statement does not know, and it reads the table.
# CASE and not OR: with statistics from when the queue was empty, PostgreSQL takes the index of all that is sent, and
# goes through thousands of rows for each message.
CLAIM = f"""
    UPDATE jobs_job AS job
    SET state = 'running', attempts = attempts + 1, token = token + 1, worker_id = %s, started_at = clock_timestamp(),
        lease_until = clock_timestamp() + %s,
        unique_key = CASE WHEN unique_until = 'started' THEN NULL ELSE unique_key END
    FROM (VALUES {{values}}) AS message (id, retries), {WITHOUT_WAITING}, {WITHOUT_WAITING_FOR_LOCKS}
    WHERE job.id = message.id AND job.retries = message.retries
      AND CASE state WHEN 'sent' THEN true WHEN 'queued' THEN run_at <= statement_timestamp() ELSE false END
      AND (expires_at IS NULL OR expires_at > statement_timestamp())
      AND queue NOT IN ({PAUSED})
    RETURNING job.id, token
"""


def claim(messages: Mapping[UUID, int], worker_id: UUID | None) -> dict[UUID, int]:
    """sent → running, for the jobs of these messages (id → retries). Returns the fencing token of each that is ours.

    An id that is missing from the answer is a duplicate, cancelled, expired or paused: its message means nothing.
    Raises OperationalError, and claims none, if somebody holds one of the rows for long.
    """
    statement, pairs = _with_values(CLAIM, "(%s::uuid, %s::int)", messages.items())
    return dict(sql.run(statement, [worker_id, settings.JOBS_LEASE, *pairs, not connection.in_atomic_block]))


def _with_values(statement: str, row: str, rows: Collection[Sequence[Any]]) -> tuple[str, list[Any]]:
    """The statement for so many rows, and its parameters.

    The last row is repeated up to a power of two, so that a connection prepares a handful of statements and not one for
    each number of rows. A row that comes twice changes what it matches once.
    """
    filled = list(rows)
    filled += filled[-1:] * ((1 << (len(filled) - 1).bit_length()) - len(filled))
    return statement.format(values=", ".join([row] * len(filled))), list(chain.from_iterable(filled))


def refuse(job_id: UUID) -> str:
    """Settle a job whose message could not be claimed, and say why: "expired", "paused" or "duplicate".

    A message may be here before the relay has committed that it was sent: wait for that, or it would be dropped as one
    of a job that was never sent.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id).first()
        return "duplicate" if job is None else _settle_refused(job)


def _settle_refused(job: Job) -> str:
    if job.state not in (Job.State.SENT, Job.State.QUEUED):
        return "duplicate"
    if job.expires_at and job.expires_at <= timezone.now():
        bury(job.id, None, Failure.expired(job.expires_at))
        return "expired"
    if job.state == Job.State.SENT and put_back(job.id):
        return "paused"
    return "duplicate"


def put_back(job_id: UUID) -> bool:
    """sent → queued, for a job whose queue was paused while its message was on the way.

    Also if it was resumed a moment ago: the message is spent, and not every broker can tell that it is gone.
    """
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_job SET state = 'queued' WHERE id = %s AND state = 'sent'", [job_id])
        return bool(cursor.rowcount)


def begin(job_id: UUID, token: int) -> None:
    """Say that the body is about to run, for which a crash can be counted. Raises `LeaseLost` if it must not run."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET begun_token = token WHERE id = %s AND token = %s AND state = 'running'",
            [job_id, token],
        )
        _expect_one(cursor, job_id, token)


ENDED = """
    finished_at = clock_timestamp(), lease_until = NULL, running_key = NULL,
    unique_key = CASE WHEN unique_expires_at > clock_timestamp() THEN unique_key END
"""


SUCCEED = f"""
    UPDATE jobs_job SET state = 'succeeded', result = %s::jsonb, {ENDED}
    FROM {WITHOUT_WAITING}
    WHERE id = %s AND token = %s AND state = 'running'
    RETURNING id
"""


def succeed(job_id: UUID, token: int, result: Any = None) -> None:
    """running → succeeded. Raises `LeaseLost`, and has changed nothing, if the token is no longer the job's."""
    kept = None if result is None else dumps(result)
    if not sql.run(SUCCEED, [kept, not connection.in_atomic_block, job_id, token]):
        raise LeaseLost(f"Job {job_id} is no longer ours to end (token {token}).")


SUCCEED_MANY = f"""
    UPDATE jobs_job AS job
    SET state = 'succeeded', result = NULL, started_at = clock_timestamp() - ended.runtime * interval '1 second',
        {ENDED}
    FROM (VALUES {{values}}) AS ended (id, token, runtime), {WITHOUT_WAITING}, {WITHOUT_WAITING_FOR_LOCKS}
    WHERE job.id = ended.id AND job.token = ended.token AND state = 'running'
    RETURNING job.id
"""


def succeed_many(endings: Collection[tuple[UUID, int, float]]) -> set[UUID]:
    """running → succeeded for each (job, token, seconds that it ran). Returns those that were still ours to end.

    They were claimed before a process was free for them: when they started is only known now. Raises as `claim` does.
    """
    statement, values = _with_values(SUCCEED_MANY, "(%s::uuid, %s::int, %s::float)", endings)
    return {row[0] for row in sql.run(statement, [*values, not connection.in_atomic_block])}


LET_GO = (
    "state = 'queued', lease_until = NULL, running_key = NULL, run_at = clock_timestamp() + %s * interval '1 second'"
)


# What the row knows of the attempt that an error ended goes with the error: the next claim overwrites it.
WITH_ERRORS = """
    errors = errors || (
        SELECT coalesce(jsonb_agg(value || CASE WHEN state = 'running' THEN jsonb_build_object(
            'attempt', attempts, 'started_at', started_at,
            'worker', (SELECT name FROM jobs_worker WHERE id = worker_id)) ELSE '{}' END), '[]')
        FROM jsonb_array_elements(%s::jsonb) AS error (value))
"""


def retry(job_id: UUID, token: int, again: NewJob, failure: Failure | None) -> None:
    """running → queued, as the task asked by `self.retry` or `self.replace`. The error is kept in the job's list.

    → cancelled, if somebody wished so meanwhile: the body had no checkpoint to see it at.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE jobs_job
            SET {LET_GO}, snoozed_since = NULL, task = %s, args = %s::jsonb, kwargs = %s::jsonb, options = %s::jsonb,
                queue = %s, priority = %s, retries = %s, expires_at = coalesce(%s, expires_at), {WITH_ERRORS}
            WHERE id = %s AND token = %s AND state = 'running'
            RETURNING cancel_requested
            """,
            [
                _seconds_until_due(again),
                again.task,
                dumps(again.args),
                dumps(again.kwargs),
                dumps(again.options),
                again.queue,
                again.priority,
                again.retries,
                again.expires_at,
                dumps([failure.as_entry()] if failure else []),
                job_id,
                token,
            ],
        )
        _expect_one(cursor, job_id, token)
        [cancel_requested] = cursor.fetchone()
        if cancel_requested:
            cancel(job_id)
        else:
            wake_relay(cursor)


def _seconds_until_due(job: NewJob) -> float:
    if job.run_at is not None:
        return max(0.0, (job.run_at - timezone.now()).total_seconds())
    return job.delay or 0.0


def _expect_one(cursor: Any, job_id: UUID, token: int) -> None:
    if cursor.rowcount == 0:
        raise LeaseLost(f"Job {job_id} is no longer ours to change (token {token}).")


def wake_relay(cursor: Any) -> None:
    cursor.execute(f"SELECT pg_notify('{CHANNEL}', '')")


def make_room(job_id: UUID, token: int) -> bool:
    """running → no row, for a job that is replaced by several, of which the last is going to have its id.

    In the transaction that records the first of them. False if somebody wished to cancel the job meanwhile: roll back.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM jobs_job WHERE id = %s AND token = %s AND state = 'running' RETURNING cancel_requested",
            [job_id, token],
        )
        _expect_one(cursor, job_id, token)
        [cancel_requested] = cursor.fetchone()
    return not cancel_requested


def snooze(job_id: UUID, token: int, seconds: float) -> None:
    """running → queued in `seconds`. It costs no retry, and the attempt is not counted.

    → cancelled, if somebody wished so meanwhile. → dead, if the job has done nothing else for `JOBS_SNOOZE_LIMIT`:
    "later" for ever is no end. Not counted is how long it was due and nobody took it, as in a queue that was paused
    over a week-end: or all that had snoozed before would die in the first minute after.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_job SET {LET_GO}, attempts = attempts - 1,"
            " snoozed_since = coalesce(snoozed_since + greatest(started_at - run_at, '0'), clock_timestamp())"
            " WHERE id = %s AND token = %s AND state = 'running' RETURNING snoozed_since, cancel_requested",
            [seconds, job_id, token],
        )
        _expect_one(cursor, job_id, token)
        since, cancel_requested = cursor.fetchone()
        if cancel_requested:
            cancel(job_id)
        elif timezone.now() - since > settings.JOBS_SNOOZE_LIMIT:
            bury(job_id, None, Failure.snoozed_since(since))
        else:
            wake_relay(cursor)


def report(job_id: UUID, token: int, progress: Mapping[str, Any]) -> bool:
    """Write the progress of a running job. Returns whether someone asked to cancel it.

    Within a transaction it only looks: nobody would see the progress before the commit, and until then the row would be
    locked, for whoever cancels the job or renews its lease.
    """
    with connection.cursor() as cursor:
        if connection.in_atomic_block:
            cursor.execute(
                "SELECT cancel_requested FROM jobs_job WHERE id = %s AND token = %s AND state = 'running'",
                [job_id, token],
            )
        else:
            cursor.execute(
                "UPDATE jobs_job SET progress = %s::jsonb WHERE id = %s AND token = %s AND state = 'running'"
                " RETURNING cancel_requested",
                [dumps(progress), job_id, token],
            )
        row = cursor.fetchone()
    if row is None:
        raise LeaseLost(f"Job {job_id} is no longer ours to report on (token {token}).")
    return bool(row[0])


SLOTS_TAKEN = """
    SELECT count(*) FROM jobs_job
    WHERE running_key = %s AND state = 'running' AND lease_until > statement_timestamp()
"""


def take_slot(job_id: UUID, token: int, key: str, at_most: int, *, again: bool = False) -> bool:
    """Have a running job count under this key; False if `at_most` others do. Its end, or its lease's, frees the slot.

    `again`: an earlier call may have been committed and its answer lost, so a slot of this key is the job's own.

    Raises ValueError for a job that holds a slot already, and RuntimeError within a transaction, whose commit is the
    first that others see of the slot.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        # Of two that count at the same time each would miss the other.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('nightshift.running:' || %s, 0))", [key])
        cursor.execute(
            f"UPDATE jobs_job SET running_key = coalesce(running_key, CASE WHEN ({SLOTS_TAKEN}) < %s THEN %s END)"
            " WHERE id = %s AND token = %s AND state = 'running'"
            " RETURNING (SELECT running_key FROM jobs_job AS old WHERE old.id = jobs_job.id), running_key",
            [key, at_most, key, job_id, token],
        )
        row = cursor.fetchone()
    if row is None:
        raise LeaseLost(f"Job {job_id} is no longer ours to limit (token {token}).")
    before, after = row
    if before is not None and not (again and before == key):
        raise ValueError(f"The job holds a slot of {before!r} already, and can hold one at a time.")
    return after is not None


def leave_slot(job_id: UUID, token: int) -> None:
    """A second time, or after the lease was lost, changes nothing."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET running_key = NULL WHERE id = %s AND token = %s AND state = 'running'",
            [job_id, token],
        )


def bury(job_id: UUID, token: int | None, failure: Failure, error: BaseException | None = None) -> bool:
    """→ dead, together with its dead letter. False if the job had ended, or the token is no longer its own.

    A job that nobody runs (expired, never sent) has no token to show. `error` is for the callbacks that want it.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id, state__in=Job.LIVE).first()
        if job is None or (token is None) != (job.state != Job.State.RUNNING) or token not in (None, job.token):
            return False
        die(job, failure, error)
    return True


def die(job: Job, failure: Failure, error: BaseException | None = None) -> None:
    """In a transaction that has locked the row."""
    end(job, Job.State.DEAD, failure)
    write_letter(job, failure)
    chords.part_died(job)
    errbacks.start(job, failure, error)


def end(job: Job, state: Job.State, failure: Failure | None = None) -> None:
    job.state = state
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE jobs_job SET state = %s, {WITH_ERRORS}, {ENDED} WHERE id = %s",
            [state, dumps([failure.as_entry()] if failure else []), job.id],
        )


def write_letter(job: Job, failure: Failure) -> None:
    """A job dies once: a second letter for the same job is the first one."""
    letter = DeadLetter(
        job_id=job.id,
        task=job.task,
        args=job.args,
        kwargs=job.kwargs,
        options=job.options,
        queue=job.queue,
        attempts=job.attempts,
        **failure.as_letter(job.task),
    )
    DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)


# --- Operators --------------------------------------------------------------------------------------------------------


def cancel(job_id: UUID) -> Job.State | None:
    """→ cancelled at once, if nobody runs it; else the running task sees the wish at its next checkpoint.

    Returns the state after the call; None if there is no such job. A second time changes nothing.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id).first()
        if job is None:
            return None
        if job.state == Job.State.RUNNING:
            Job.objects.filter(pk=job_id).update(cancel_requested=True)
        elif job.is_live:
            end(job, Job.State.CANCELLED)
            chords.part_died(job)
            return Job.State.CANCELLED
        return Job.State(job.state)


# Of a chord's part the body has to be told, one by one.
CANCEL_MANY = f"""
    UPDATE jobs_job SET state = 'cancelled', {ENDED}
    WHERE id = ANY(%s) AND state IN ('queued', 'sent') AND NOT options ?| ARRAY['chord', 'chain']
    RETURNING id
"""


def cancel_many(job_ids: Sequence[UUID]) -> set[UUID]:
    """Like `cancel`. Returns those that are cancelled now, or have been asked to stop."""
    try:
        return _cancel_batch(job_ids)
    except OperationalError as exc:
        # The parts of two chords, which somebody else cancels other parts of, in another order.
        if connection.in_atomic_block or not isinstance(exc.__cause__, DeadlockDetected):
            raise
        return _cancel_batch(job_ids)


def _cancel_batch(job_ids: Sequence[UUID]) -> set[UUID]:
    """All rows are locked before the first chord, as by a part that ends; and in one order, as by other operators."""
    with transaction.atomic(), connection.cursor() as cursor:
        live = Job.objects.select_for_update().filter(pk__in=job_ids, state__in=Job.LIVE).order_by("pk")
        locked = list(live.values_list("pk", flat=True))
        cursor.execute(CANCEL_MANY, [locked])
        at_once = {row[0] for row in cursor.fetchall()}
        states = {job_id: cancel(job_id) for job_id in locked if job_id not in at_once}
    return at_once | {job_id for job_id, state in states.items() if state in (Job.State.CANCELLED, Job.State.RUNNING)}


def cancelled(job_id: UUID, token: int) -> bool:
    """running → cancelled: the task has seen the wish and stopped."""
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id, token=token, state=Job.State.RUNNING).first()
        if job is None:
            return False
        end(job, Job.State.CANCELLED)
        chords.part_died(job)
    return True


def hurry(job_ids: Iterable[UUID]) -> int:
    """Make queued jobs due now ("run now", "retry now"). Returns how many are.

    One that is due already keeps its place in the queue, and its age.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET run_at = least(run_at, statement_timestamp()) WHERE id = ANY(%s) AND state = 'queued'",
            [list(job_ids)],
        )
        hurried: int = cursor.rowcount
        wake_relay(cursor)
    return hurried
