"""Are jobs worked off? Asked of the rows that workers, relays and beats write, never of the processes themselves.

Problem. `inspect ping` broadcasts to every worker and waits a second for whoever answers; it says nothing of a queue
that nobody reads, and fails as a whole when the broker is away.

Guarantee. Each reason is found by a few index scans, however long the backlog, and is about something to act on: a
queue whose last worker was killed is missed after `JOBS_LEASE`, half a minute.

Not guaranteed. What is older than a second may be told again: see `apps.jobs.health.probes`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from apps.jobs.clock import database_now
from apps.jobs.health import pulling
from apps.jobs.health.reasons import Reason
from apps.jobs.ledger import PAUSED
from apps.jobs.models import Heartbeat, Worker

# Relays and beats write every five seconds. (A worker is taken for dead when its leases are: after `JOBS_LEASE`.)
SILENT = timedelta(seconds=30)
# A message is taken up in milliseconds by a worker that has nothing to do, and a worker that has just been started
# needs a few seconds until it says what it consumes.
DEAF = timedelta(seconds=20)
# Queues in one sentence.
NAMED = 5


def troubles(now: datetime | None = None) -> list[Reason]:
    """`now` by PostgreSQL's clock."""
    now = now or database_now()
    workers = pulling.live_workers()
    backlogs = _backlogs()
    return [
        *_unread_queues(workers),
        *_long_queues(backlogs),
        *_idle_workers(workers, backlogs, now),
        *_silent_processes(_needed(), now),
    ]


# --- Workers and queues -----------------------------------------------------------------------------------------------


def _unread_queues(workers: list[Worker]) -> Iterator[Reason]:
    read = {queue for worker in workers for queue in worker.queues}
    for queue in sorted(routed_queues() - read):
        yield Reason("no_worker", queue, f"No worker reads the queue {queue}.")


def routed_queues() -> set[str]:
    """The queues that tasks are sent to."""
    return {settings.CELERY_TASK_DEFAULT_QUEUE} | {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}


@dataclass(frozen=True)
class Backlog:
    """waiting: due jobs, not counted much further than to the limit. oldest, unclaimed: ages in seconds, of the job
    that has waited longest, and of the message that has lain in the broker longest.
    """

    queue: str
    waiting: int
    oldest: float | None
    unclaimed: float | None


# The limits bound what is counted. Of those that were sent there are a few thousand at most, see `ledger.WINDOW`.
BACKLOGS = f"""
    SELECT policy.queue,
           (SELECT count(*) FROM (
                SELECT 1 FROM jobs_job
                WHERE queue = policy.queue AND state = 'queued' AND run_at <= statement_timestamp()
                LIMIT policy.backlog + 1) AS queued)
           + (SELECT count(*) FROM (
                SELECT 1 FROM jobs_job WHERE queue = policy.queue AND state = 'sent' LIMIT policy.backlog + 1) AS sent),
           extract(epoch FROM statement_timestamp() - least(
               (SELECT run_at FROM jobs_job
                WHERE queue = policy.queue AND state = 'queued' AND run_at <= statement_timestamp()
                ORDER BY run_at LIMIT 1),
               (SELECT min(run_at) FROM jobs_job WHERE queue = policy.queue AND state = 'sent')))::float,
           extract(epoch FROM statement_timestamp() - (
               SELECT sent_at FROM jobs_job WHERE queue = policy.queue AND state = 'sent'
               ORDER BY sent_at LIMIT 1))::float
    FROM unnest(%s::text[], %s::int[]) AS policy (queue, backlog) WHERE policy.queue NOT IN ({PAUSED})
"""


def _backlogs() -> list[Backlog]:
    """Of the queues that are not paused: a paused one grows because somebody wants it to."""
    limits = {name: policy.backlog for name, policy in settings.JOBS_QUEUES.items()}
    with connection.cursor() as cursor:
        cursor.execute(BACKLOGS, [list(limits), list(limits.values())])
        return [Backlog(*row) for row in cursor.fetchall()]


def _long_queues(backlogs: list[Backlog]) -> Iterator[Reason]:
    for backlog in backlogs:
        policy = settings.JOBS_QUEUES[backlog.queue]
        if backlog.waiting > policy.backlog:
            said = f"More than {policy.backlog:,} jobs wait in the queue {backlog.queue}."
            yield Reason("backlog", backlog.queue, said)
        if backlog.oldest is not None and backlog.oldest > policy.oldest_seconds:
            said = (
                f"The oldest job of the queue {backlog.queue} has waited for {backlog.oldest:.0f} s,"
                f" which is more than {policy.oldest_seconds} s."
            )
            yield Reason("oldest", backlog.queue, said)


def _idle_workers(workers: list[Worker], backlogs: list[Backlog], now: datetime) -> Iterator[Reason]:
    """One that has just missed a heartbeat is rather dead than deaf, and is told of as that in a moment."""
    for worker in workers:
        if worker.started_at < now - DEAF and worker.heartbeat_at > now - settings.JOBS_LEASE / 2:
            yield from _not_consuming(worker, {backlog.queue: backlog for backlog in backlogs}, now)


def _not_consuming(worker: Worker, backlogs: dict[str, Backlog], now: datetime) -> Iterator[Reason]:
    not_listening = sorted(set(worker.queues) - set(worker.consuming))
    if not_listening:
        said = f"The worker {worker.name} is up, and does not listen to {_few(not_listening)}."
        yield Reason("not_consuming", worker.name, said)
    elif worker.busy == 0 and (worker.took_up_at is None or worker.took_up_at < now - DEAF):
        deaf_to = [queue for queue in worker.queues if _lies_there(backlogs.get(queue))]
        if deaf_to:
            said = f"The worker {worker.name} is up and idle, and takes no messages of {_few(deaf_to)}."
            yield Reason("not_consuming", worker.name, said)


def _few(queues: list[str]) -> str:
    """As many as a sentence bears; the worker's page has all of them."""
    named = ", ".join(queues[:NAMED])
    return f"{named} and {len(queues) - NAMED} more" if len(queues) > NAMED else named


def _lies_there(backlog: Backlog | None) -> bool:
    return backlog is not None and (backlog.unclaimed or 0) > DEAF.total_seconds()


# --- Relay and beat ---------------------------------------------------------------------------------------------------


def _silent_processes(needed: list[Heartbeat.Process], now: datetime) -> Iterator[Reason]:
    """One of each that is well is enough."""
    alive = list(Heartbeat.objects.filter(heartbeat_at__gt=now - SILENT).values_list("process", "trouble"))
    for process in needed:
        kept_from_work = [trouble for name, trouble in alive if name == process]
        if not kept_from_work:
            yield Reason(f"{process}_silent", process, f"No {process} has been heard from for {SILENT.seconds} s.")
        elif all(kept_from_work):
            yield Reason(f"{process}_troubled", process, f"The {process} cannot do its work: {kept_from_work[0]}")


def _needed() -> list[Heartbeat.Process]:
    """Workers that take their jobs straight from the ledger need no relay."""
    if pulling.all_pull():
        return [Heartbeat.Process.BEAT]
    return [Heartbeat.Process.BEAT, Heartbeat.Process.RELAY]
