"""Leases: how the ledger knows that a running job's worker is alive.

Problem. A worker that is killed, frozen or cut off cannot say so.

Guarantee. A worker's main process renews the leases of all its running jobs in one statement, at least three times in
a lease's length, whatever pool runs them, and touches the heartbeat file. A job whose lease ran out is handed on by the
relay. A worker that is told to stop gives its jobs a grace, and then hands back what still runs, uncounted.

Not guaranteed. A frozen worker that wakes up goes on with its body until the next checkpoint or its end; the token
keeps it from writing anything then.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn
from uuid import UUID

from celery import bootsteps
from celery.signals import task_postrun
from celery.worker import state
from celery.worker.components import Pool
from django.conf import settings
from django.db import Error as DatabaseTrouble
from django.db import connection
from django.db.models.functions import Now

from apps.jobs import connections, endings, rescue
from apps.jobs.health import heartbeat_file
from apps.jobs.ids import job_id_of, uuid7
from apps.jobs.models import Job, Worker

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3  # at least
# Seconds: at once would be a loop as fast as the machine.
REQUEUE_AFTER = 5.0


@dataclass
class ThisWorker:
    """What a process knows of the worker that it is, or whose pool it belongs to (children inherit it)."""

    id: UUID = field(default_factory=uuid7)
    timer: Any = None
    is_stopping: bool = False
    has_left: bool = False
    is_green: bool = False
    # Whether Celery can end a job from outside: the process of one, or its green thread.
    can_kill: bool = True


_this = ThisWorker()


def worker_id() -> UUID:
    """The identity of this worker's main process; its pool children inherit it."""
    return _this.id


def is_stopping() -> bool:
    """Whether this worker is being stopped in good order: what it loses from now on is handed back uncounted."""
    return _this.is_stopping


def token_of(job_id: UUID) -> int | None:
    """The token under which this worker runs the job, for the main process, which did not claim it itself."""
    held = Job.objects.filter(pk=job_id, worker_id=_this.id, state=Job.State.RUNNING)
    return held.values_list("token", flat=True).first()


def renew_every() -> float:
    """Seconds. The heartbeat file is touched as often, and whoever looks at it does not know how long a lease is."""
    return min(settings.JOBS_LEASE.total_seconds() / RENEWALS_PER_LEASE, heartbeat_file.EVERY)


def requeue_later(message: Any, connection_errors: tuple[type[Exception], ...]) -> None:
    """For a message that cannot be settled now. In this worker's main process.

    If its connection is lost by then, it comes back by itself; the error would cost the next connection, too.
    """
    give_back = partial(message.reject_log_error, logger, connection_errors, requeue=True)
    _this.timer.call_after(REQUEUE_AFTER, give_back)


class LeaseStep(bootsteps.StartStopStep):
    """Part of the worker, not of its connection to the broker: it goes on while the broker is away."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        _this.id = uuid7()  # before the pool forks
        self.timer_entry: Any = None
        _this.is_green = pool_is(parent, "gevent")
        _this.can_kill = _this.is_green or pool_is(parent, "prefork")
        if _this.is_green:
            task_postrun.connect(connections.close)

    def start(self, parent: Any) -> None:
        _this.timer = parent.timer
        heartbeat_file.touch()
        connections.patiently(lambda: self._introduce(parent))
        if pool_is(parent, "solo"):
            # A job runs in the main loop, where the timer stands still meanwhile.
            _in_background(lambda: self._keep_beating(parent))
        else:
            self.timer_entry = parent.timer.call_repeatedly(renew_every(), self._beat, (parent,))

    def _keep_beating(self, parent: Any) -> None:
        while not _this.is_stopping:
            time.sleep(renew_every())
            with _carrying_on():
                self._beat(parent)
                let_go_of_stuck()

    def _introduce(self, parent: Any) -> None:
        Worker.objects.update_or_create(
            id=_this.id,
            defaults={
                "name": parent.hostname,
                "pid": os.getpid(),
                "queues": [queue.name for queue in parent.app.amqp.queues.consume_from.values()],
                "pool": parent.pool_cls.__module__.rpartition(".")[2],
                "size": parent.concurrency,
            },
        )

    def _beat(self, parent: Any) -> None:
        """Renew, and say that we live. Without the database there is nothing to renew: try again next time.

        Nor may any other error of its end this: while a deploy migrates a table, code may be newer than its columns.
        """
        heartbeat_file.touch()
        try:
            connections.refresh()
            for job_id in renew_leases():
                self._terminate(parent, job_id)
            Worker.objects.filter(pk=_this.id).update(
                heartbeat_at=Now(), busy=len(state.active_requests), size=parent.pool.num_processes
            )
        except DatabaseTrouble as exc:
            logger.warning("Leases were not renewed: %s", str(exc).strip())
            connection.close()
        if threading.current_thread() is threading.main_thread():  # it acknowledges, on the main loop's connection
            endings.batch.flush_if_late()

    def _terminate(self, parent: Any, job_id: UUID) -> None:
        """A cancelled job that has not stopped by itself: end its process, where the pool has processes."""
        if pool_is(parent, "prefork"):
            for request in tuple(state.active_requests):
                # Not by `state.requests`: a second message of the job, which is dropped, takes its place there.
                if job_id_of(request.id) == job_id:
                    request.terminate(parent.pool, signal="KILL")

    def stop(self, parent: Any) -> None:
        """The pool has been stopped before us, so what the ledger still shows as ours is nobody's."""
        if self.timer_entry is not None:
            self.timer_entry.cancel()
        _this.is_stopping = True
        hand_back()

    terminate = stop


def hand_back() -> None:
    """What the ledger shows as ours when nothing of it runs any more is nobody's."""
    _this.has_left = True
    try:
        endings.write_all()
        rescue.release(_this.id)
        Worker.objects.filter(pk=_this.id).update(stopped_at=Now(), busy=0)
    except DatabaseTrouble as exc:
        logger.warning("Could not hand back jobs, their leases will run out: %s", str(exc).strip())


# Steps stop in the reverse order of their start. What the pool has not finished is known only after it has stopped, so
# it must start after us.
Pool.requires = (*Pool.requires, LeaseStep)


def pool_is(worker: Any, kind: str) -> bool:
    return bool(worker.pool_cls.__module__.endswith(kind))


def let_go_of_stuck() -> None:
    """What was claimed together with a job that runs in the main loop since, is any worker's.

    The main loop may start one of them meanwhile: either it has said so, or it hears that the job is not ours any more.
    When it comes back, it settles their messages as of all that has waited too long.
    """
    stuck = {request.job_id: request.token for request in _copied(state.reserved_requests) if request.is_stuck}
    released = rescue.release(_this.id, stuck, unless_begun=True) if stuck else 0
    if released:
        logger.info("%d jobs that waited behind a long one are handed back", released)


def renew_leases() -> list[UUID]:
    """Returns the jobs that someone asked to cancel."""
    held = held_jobs()
    return rescue.renew(held, _this.id) if held else []


def held_jobs() -> list[UUID]:
    """Reserved is what waits for a process as well: it may be claimed already.

    Active alone is what began after Celery had forgotten it, with a connection.
    """
    held = {*_copied(state.reserved_requests), *_copied(state.active_requests)}
    return [job_id_of(request.id) for request in held] + endings.not_written_yet()


def _copied(requests: Any) -> list[Any]:
    """Of one of Celery's weak sets. The main loop changes it while a thread of ours looks, over which going through it
    would raise; copying the set inside it is one step.
    """
    return [request for reference in requests.data.copy() if (request := reference()) is not None]


def running_here() -> set[Any]:
    """Also what a child was given and has not said that it began, as while it starts or the broker is away."""
    given = {request for request in _copied(state.reserved_requests) if request.is_with_pool}
    return given | {*_copied(state.active_requests)}


def begin_shutdown(**signal_fields: Any) -> None:
    """On SIGTERM: let running jobs finish, but not for longer than the grace."""
    if signal_fields.get("how") == "Warm" and not _this.is_stopping:
        _in_background(_end_grace)


def _in_background(action: Callable[[], None]) -> None:
    """In a signal handler, where gevent may not wait for a thread to start, but may spawn."""
    if _this.is_green:
        import gevent

        gevent.spawn(action)
    else:
        threading.Thread(target=action, name="leases", daemon=True).start()


@contextmanager
def _carrying_on() -> Iterator[None]:
    """For a thread that alone renews this worker's leases: no error may end it."""
    try:
        yield
    except DatabaseTrouble:
        connections.refresh()  # nobody else would in this thread
    except Exception:
        logger.exception("Leases were not renewed")


def _end_grace() -> None:
    """Renew while the main loop no longer does; then end what still runs."""
    deadline = time.monotonic() + settings.JOBS_SHUTDOWN_GRACE.total_seconds()
    while running_here() and time.monotonic() < deadline:
        with _carrying_on():
            renew_leases()
        time.sleep(0.2)
    if still := running_here():
        logger.warning("Grace is over: %d running jobs are handed back.", len(still))
        _this.is_stopping = True
        if _this.can_kill:
            _stop_cold()
        else:
            leave()


def _stop_cold() -> None:
    """Celery forgets its jobs at once, and takes seconds to end them: until they are handed back they are ours."""
    held = held_jobs()
    os.kill(os.getpid(), signal.SIGQUIT)
    while not _this.has_left:
        with _carrying_on():
            rescue.renew(held, _this.id)
        time.sleep(0.2)


def leave() -> NoReturn:
    """Nothing less ends a body of `solo` or `threads`. Celery's cold stop raises an error in the middle of the one,
    which would bury its job, and waits for the other.
    """
    hand_back()
    logging.shutdown()
    os._exit(0)
