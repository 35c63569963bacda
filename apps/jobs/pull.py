"""Jobs taken straight from the ledger, without a message: for a worker that has no broker.

Problem. `UPDATE … WHERE id = (SELECT … FOR UPDATE SKIP LOCKED LIMIT 1)` asks the database twice for every job, and a
worker that dies keeps its row for ever.

Guarantee. A batch is taken in one statement a queue, and no two workers take the same row. To take is only to announce:
each job is claimed, under a lease, when its turn has come. So a worker that dies with a batch in its hands has spoilt
nothing: what nobody has claimed for `SILENT` is taken by the next one, and no crash is counted.

Not guaranteed. A relay that runs beside may have sent the same job to a broker. Whoever claims it first runs it.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from django.db import connection, transaction

from apps.jobs import ledger
from apps.jobs.ledger import Due

# What a worker without a broker says of itself, where Celery's workers name their pool.
POOL = "work"
# What was taken is claimed within a second, or put back, unless it waits behind a slow job.
SILENT = timedelta(seconds=5)

# ARRAY: as in `ledger.TAKE_DUE`.
FORGET_SILENT = """
    UPDATE jobs_job SET state = 'queued'
    WHERE id = ANY(ARRAY(
        SELECT id FROM jobs_job
        WHERE state = 'sent' AND queue = ANY(%s) AND sent_at < statement_timestamp() - %s * interval '1 second'
        ORDER BY sent_at LIMIT %s FOR UPDATE SKIP LOCKED))
"""


def take(queues: Iterable[str], limit: int) -> list[Due]:
    """queued → sent, for at most `limit` due jobs: those of the first queue before those of the next."""
    taken: list[Due] = []
    with transaction.atomic():
        for queue in queues:
            if len(taken) < limit:
                taken += ledger.take_due([queue], limit - len(taken))
    return taken


def take_silent_too(queues: Sequence[str], limit: int) -> list[Due]:
    """The same, and among them the jobs that were taken or sent, and that nobody has claimed since."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(FORGET_SILENT, [list(queues), SILENT.total_seconds(), limit])
        return take(queues, limit)


def put_back(jobs: Iterable[UUID]) -> None:
    """sent → queued, for what was taken and has not been started. Each keeps its place in its queue."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_job SET state = 'queued' WHERE id = ANY(%s) AND state = 'sent'", [list(jobs)])
