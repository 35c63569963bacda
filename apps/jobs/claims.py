"""One claim for all jobs that were fetched together, in the worker's main process.

Problem. A claim is a round trip and a commit for each job, and a child is woken for a job that nobody may run.

Guarantee. What arrives in one turn of the event loop is claimed in one statement, before any of it reaches the pool; a
duplicate, cancelled, expired or paused job never does. The token goes to the child with the request. What is claimed
does not wait long: a job that has not reached the pool within `WAIT_AT_MOST` is handed back, uncounted, for any worker.
Where the pool is this process (solo), a long job stands before that too; then `lease.let_go_of_stuck` does it.

Not guaranteed. A message of a producer that does not know the ledger, and every message in a pool without an event loop
(gevent), is claimed by the job's own process or greenlet, as it starts.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import ref

from celery.exceptions import Ignore
from celery.worker import state
from django.db import DatabaseError, InterfaceError, connection

from apps.jobs import lease, ledger, rescue
from apps.jobs.ahead import Ahead
from apps.jobs.batch import Batch
from apps.jobs.metrics import meter

if TYPE_CHECKING:
    from apps.jobs.request import JobRequest

logger = logging.getLogger(__name__)

# Others may be idle. Much longer than what is fetched ahead should take, so that it happens only when a job surprises.
WAIT_AT_MOST = 1.0


class Claims:
    """`start` hands a request to the pool; it is Celery's own way to do so."""

    def __init__(self, consumer: Any, start: Callable[["JobRequest"], Any]) -> None:
        self.start = start
        self.ahead = Ahead(consumer)
        self.slots = consumer.controller.semaphore
        self.ends_here = lease.pool_is(consumer.controller, "prefork") or lease.pool_is(consumer.controller, "solo")
        # Apart, because what has no row does not wait for the database.
        self.batch, self.without_row = Batch(self._claim), Batch(self._start)
        self.batch.timer = self.without_row.timer = consumer.timer

    def on_task_request(self, request: "JobRequest") -> None:
        batch = self.batch if request.has_row else self.without_row
        batch.add(request, within=0.0)

    def forget(self) -> None:
        """The connection is lost, and these messages with it: they come back, to any worker."""
        self.batch.items.clear()
        self.without_row.items.clear()

    def _claim(self, requests: list["JobRequest"]) -> None:
        first = {request.job_id: request for request in reversed(requests)}
        claimed_at = time.monotonic()
        tokens = ledger.claim({job_id: request.tried for job_id, request in first.items()}, lease.worker_id())
        granted = []
        for request in requests:
            if first[request.job_id] is not request:
                self.batch.add(request, within=0.0)  # a second message of the same job: what is it after the first?
            elif request.job_id in tokens:
                request.grant(tokens[request.job_id], claimed_at=claimed_at, ends_here=self.ends_here)
                granted.append(request)
        self._start(granted)
        # Last: what goes wrong with one of these must not keep what is ours from being started.
        for request in first.values():
            if request.token is None:
                self._refuse(request)

    def _start(self, requests: list["JobRequest"]) -> None:
        """With a solo pool, each runs to its end here."""
        began = time.monotonic()
        # Held by the timer they would live for so long, thousands of them, for the collector to go through.
        self.batch.timer.call_after(WAIT_AT_MOST, self._hand_back, (list(map(ref, requests)),))
        self.ahead.adjust(self.ends_here)
        for request in requests:
            if state.should_stop is None and time.monotonic() - began < WAIT_AT_MOST:
                try:
                    self.start(request)
                except Exception:  # of this one, which is handed back; nobody may start the others a second time
                    logger.exception("%s[%s] cannot be started", request.name, request.id)

    def _refuse(self, request: "JobRequest") -> None:
        try:
            why = ledger.refuse(request.job_id)
        except Exception as exc:  # noqa: BLE001 - of this one message, which comes back; the others must be settled too
            logger.warning("%s[%s] cannot be settled: %s", request.name, request.id, str(exc).strip())
            connection.close()
            state.task_ready(request)
            lease.requeue_later(request.message, request._connection_errors)
            return
        logger.info("Dropped a message for %s[%s]: %s", request.name, request.id, why)
        meter.ignored(request, Ignore(why))
        state.task_ready(request)
        request.acknowledge()

    def _hand_back(self, started: "list[ref[JobRequest]]") -> None:
        alive = [request for reference in started if (request := reference()) is not None]
        late = [request for request in alive if request.waits_for_pool and request in state.reserved_requests]
        if not late:
            return
        self.ahead.forget()
        self._leave_the_line(late)
        hand_back(request for request in late if request.has_row)
        for request in late:
            request.acknowledge() if request.has_row else request.give_back()

    def _leave_the_line(self, late: "list[JobRequest]") -> None:
        """For a process. Celery would pass over each when its turn came, by a call within the call for the one before:
        Python refuses some hundred of these, and the worker would exit.
        """
        line, leaving = self.slots._waiting, set(late)
        others = [waiter for waiter in line if leaving.isdisjoint(waiter[1])]
        line.clear()
        line.extend(others)


def waiting() -> list["JobRequest"]:
    """Claimed, and no process has it yet. What has no row comes back from the broker by itself."""
    reserved = tuple(state.reserved_requests)
    return [request for request in reserved if request.token is not None and not request.is_with_pool]


def hand_back(requests: Iterable["JobRequest"]) -> None:
    """running → queued, without having been started. If it cannot be written, the leases run out."""
    attempts: dict[UUID, int | None] = {}
    for request in requests:
        request.forgo()
        attempts[request.job_id] = request.token
    if not attempts:
        return
    try:
        rescue.release(lease.worker_id(), attempts)
    except (DatabaseError, InterfaceError) as exc:
        logger.warning("%d jobs could not be handed back: %s", len(attempts), str(exc).strip())
        connection.close()
