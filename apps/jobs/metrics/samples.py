"""Samples: how long the queues were, and how busy the workers.

Problem. A level is gone when it has passed: a queue that was full last night looks like any other in the morning.

Guarantee. While a relay runs, each minute has a row for every queue with the most that waited and ran in it and the
oldest job's age, and one for all workers' slots. Any number of relays write to the same rows: a maximum stays one, and
of the slots both terms of the share are summed.

Not guaranteed. What comes and goes between two looks is not seen. While no relay runs there are no samples.
"""

import logging

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from apps.jobs.metrics.counts import LOCK_TIMEOUT
from apps.jobs.queues import statuses

logger = logging.getLogger(__name__)

# Seconds. A peak that a person would ask about lasts longer, and the question costs a few milliseconds; 0.1 s over a
# million queued jobs, and about 1 s until they have been vacuumed.
EVERY = 10.0

ADD_QUEUE = """
    INSERT INTO jobs_queueminute AS seen (minute, queue, waiting, running, oldest)
    VALUES (date_trunc('minute', statement_timestamp()), %s, %s, %s, %s)
    ON CONFLICT (minute, queue) DO UPDATE SET
        waiting = greatest(seen.waiting, excluded.waiting),
        running = greatest(seen.running, excluded.running),
        oldest = greatest(seen.oldest, excluded.oldest)
"""

ADD_FLEET = """
    INSERT INTO jobs_fleetminute AS seen (minute, busy, size)
    SELECT date_trunc('minute', statement_timestamp()), coalesce(sum(busy), 0), coalesce(sum(size), 0)
    FROM jobs_worker WHERE stopped_at IS NULL AND heartbeat_at > statement_timestamp() - %s
    ON CONFLICT (minute) DO UPDATE SET busy = seen.busy + excluded.busy, size = seen.size + excluded.size
"""


def take() -> None:
    """Look once, and add what is seen to this minute's rows. In the order of the queues' names, as every relay does."""
    found = sorted((queue.name, queue.waiting, queue.running, queue.oldest or 0.0) for queue in statuses())
    try:
        _add(found)
    except OperationalError as exc:
        if not isinstance(exc.__cause__, LockNotAvailable):
            raise
        logger.warning("The queues' sample is left out: a transaction holds its rows")


def _add(found: list[tuple[str, int, int, float]]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.executemany(ADD_QUEUE, found)
        cursor.execute(ADD_FLEET, [settings.JOBS_LEASE])  # type: ignore[list-item]  # psycopg knows intervals
