"""Plain successes, written by the worker's main process many at a time.

Problem. A job's end is a round trip and a commit, which for a short job takes longer than the job.

Guarantee. The end is written, under the claim's token, before the message is acknowledged. While the database is away
it is kept, and written later; the lease is renewed meanwhile. At a stop it is written before anything is handed back.

Not guaranteed. A worker that is killed between a job's end and this statement, 20 ms at most, has the job run again:
at least once, as after any crash. A task whose effects are rows can be `atomic`, and then ends with them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery.worker import state

from apps.jobs import connections, ledger
from apps.jobs.batch import Batch

logger = logging.getLogger(__name__)

# Longer makes no larger batches at the rates that two cores reach.
WITHIN = 0.02
# At a stop (seconds): others wait for what is handed back after this.
PATIENCE = 2.0


@dataclass(frozen=True)
class Ending:
    job_id: UUID
    token: int
    runtime: float
    has_been_written: Callable[[], Any]  # acknowledges, and tells Celery


def write_soon(ending: Ending) -> None:
    """At once, if no more wait for the pool than have ended: their slots are what others can be fetched for."""
    waiting = len(state.reserved_requests) - len(state.active_requests)
    batch.add(ending, WITHIN if waiting > len(batch.items) else 0.0)


def not_written_yet() -> list[UUID]:
    """Jobs whose leases are still ours to renew."""
    return [ending.job_id for ending in batch.items]


def write_all() -> None:
    """Before this worker hands back what it did not finish."""
    endings, batch.items = batch.items, []
    if endings:
        connections.patiently(lambda: _write(endings), PATIENCE)


def _write(endings: list[Ending]) -> None:
    ended = ledger.succeed_many([(ending.job_id, ending.token, ending.runtime) for ending in endings])
    for ending in endings:
        if ending.job_id not in ended:
            logger.warning("Job %s has ended, but was no longer ours (token %d)", ending.job_id, ending.token)
        try:
            ending.has_been_written()
        except Exception:  # all of them are written, and must not be again for the sake of one
            logger.exception("Job %s has ended, but Celery cannot be told", ending.job_id)


batch = Batch(_write)
