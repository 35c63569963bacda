"""The smallest worker: PostgreSQL alone, one process, one job at a time. `manage.py work --queues default`.

Problem. The loop that usually stands here takes a row, runs it, and marks it done. It polls; it holds its row when it
dies; it knows no retry, no time limit, no lease, and a deploy cuts its job in two.

Guarantee. All that a Celery worker gives a job of the ledger, because it is the same task run by the same tracer: the
claim and its token, retries, snoozes, dead letters, `atomic`, `unique`, chains and chords, progress. `Vitals` keeps the
lease, and ends what runs too long or was cancelled. Any number of these processes may run, beside each other, relays
and Celery's workers.

Not guaranteed. Jobs of a broker-only task (`durable=False`) are messages, and there is nobody here to receive them.
Celery's own `rate_limit=`, which counts in each worker for itself, is not looked at; `apps.jobs.limits` is.

Follow one job: `pull.take` → `Work._run` → Celery's tracer → `JobTask.before_start` claims → `Attempt.run` ends it.
"""

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery, states
from celery.app.trace import trace_task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection

from apps.jobs import connections, lease, ledger, pull, rescue
from apps.jobs.failures import Failure
from apps.jobs.ledger import Due
from apps.jobs.metrics import counts, meter
from apps.jobs.relay import as_message
from apps.jobs.vitals import Vitals
from apps.jobs.wakeup import Ear

logger = logging.getLogger(__name__)

# Enough that taking a batch costs little for each job of it.
BATCH = 50
# What has not been started in this time goes back: for an idle worker, or for something more urgent to come first.
HOLD = 1.0
# If a notification is lost, or run_at was changed by hand, a job waits this long at most.
POLL_EVERY = 1.0
# Overdue, and yet there was nothing to take: another worker has it. Not again at once (seconds).
LOOK_AGAIN = 0.02
# What Celery's worker would tell of an attempt that the tracer calls so.
ENDS = {states.RETRY: "task-retried", states.FAILURE: "task-failed"}


class Work:
    """`queues`: the first is served before the next."""

    def __init__(self, app: Celery, queues: Sequence[str]) -> None:
        self.app = app
        self.queues = list(queues)
        self.ear = Ear()
        self.vitals = Vitals(self.queues)
        self.next_look = 0.0

    def run(self) -> None:
        """Until SIGTERM or SIGINT: the job at hand has a grace, and what was only taken is put back."""
        signal.setitimer(signal.ITIMER_REAL, 0)  # whoever executed this process may have set it, for a job of its own
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, _soft_limit)
        self.vitals.start()
        logger.info("Working on the queues %s", ", ".join(self.queues))
        while not self.vitals.is_stopping:
            try:
                if not self.run_once():
                    self._wait()
            except connections.LOST as exc:
                logger.warning("The database is away: %s", str(exc).strip())
                connection.close()
                time.sleep(POLL_EVERY)
        self.vitals.end()
        counts.write()

    def _stop(self, *_: Any) -> None:
        self.vitals.begin_stopping()

    def run_once(self) -> int:
        """Take a batch and run what of it there is time for. Returns how many jobs were taken."""
        counts.write_if_due()
        batch = self._take()
        put_back_at = time.monotonic() + HOLD
        for position, job in enumerate(batch):
            if self.vitals.is_stopping or time.monotonic() > put_back_at:
                pull.put_back(waiting.id for waiting in batch[position:])
                break
            self._run(job)
        return len(batch)

    def _take(self) -> list[Due]:
        """Every second also what others have left behind."""
        if time.monotonic() < self.next_look:
            return pull.take(self.queues, BATCH)
        self.next_look = time.monotonic() + POLL_EVERY
        return pull.take_silent_too(self.queues, BATCH)

    def _wait(self) -> None:
        """Sleep until something is recorded, or the next job is due, or the poll."""
        due_in = ledger.next_due(self.queues)
        self.ear.wait(POLL_EVERY if due_in is None else min(POLL_EVERY, max(LOOK_AGAIN, due_in)))

    def _run(self, job: Due) -> None:
        task = self.app.tasks.get(job.task)
        if task is None:
            rescue.hand_back_unknown(job.id)
            return
        try:
            request = as_request(self.app, job)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be called must not stop the others
            rescue.bury_without_message(job.id, Failure.of(exc))
            return
        try:
            self._trace(task, job, request)
        except (SystemExit, KeyboardInterrupt) as exc:
            failure = Failure.worker_lost(f"The task asked its process to exit: {exc!r}")
            state_now = rescue.crashed(job.id, failure, worker_id=lease.worker_id())
            if state_now is not None:
                meter.event(Served(job.task, request), f"task-{rescue.counted_as(state_now)}", {})

    def _trace(self, task: Any, job: Due, request: dict[str, Any]) -> None:
        served = Served(job.task, request)
        soft, hard = _time_limits(task, request)
        meter.event(served, "task-started", {})
        with self.vitals.of(job, hard), _alarm(soft):
            traced = trace_task(task, str(job.id), job.args, job.kwargs, request, app=self.app)
        served.ended(traced)


@dataclass(frozen=True)
class Served:
    """What is counted of a job, in the words of the worker's request."""

    name: str
    request_dict: dict[str, Any]

    @property
    def delivery_info(self) -> Any:
        return self.request_dict["delivery_info"]

    def ended(self, traced: Any) -> None:
        if traced.info is None:
            meter.event(self, "task-succeeded", {"runtime": traced.runtime})
        elif traced.info.state in ENDS:
            meter.event(self, ENDS[traced.info.state], {})
        else:
            meter.ignored(self, traced.info.retval)


def as_request(app: Celery, job: Due) -> dict[str, Any]:
    """What a worker's main process makes of the job's message for the process that runs it."""
    message = as_message(app, job)
    _, _, embed = message.body
    delivery = {"exchange": "", "routing_key": job.queue, "priority": job.priority, "redelivered": False}
    arguments = {"args": job.args, "kwargs": job.kwargs}
    return {**message.headers, **embed, **arguments, "is_eager": False, "delivery_info": delivery}


def _time_limits(task: Any, request: dict[str, Any]) -> tuple[float | None, float | None]:
    """Soft and hard: what was asked for this job, else for its task, else for all."""
    hard, soft = request.get("timelimit") or (None, None)
    return soft or task.soft_time_limit, hard or task.time_limit


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _soft_limit(*_: Any) -> None:
    raise SoftTimeLimitExceeded
