"""What keeps a worker of one process honest while its only thread is busy with a job.

Problem. Who runs a job cannot renew its lease meanwhile, nor notice that it has taken too long, nor end it.

Guarantee. A thread beside it renews the lease and the worker's row, at least three times in a lease's length, and hands
on the jobs of workers that are gone. A job past its hard time limit is buried, a cancelled one cancelled, and the
process executes itself anew, with the same pid, because nothing less ends a body that does not listen. At SIGTERM the
job has `JOBS_SHUTDOWN_GRACE` to finish; then it is handed back, uncounted.

Not guaranteed. A body in C code that holds Python's lock holds up this thread as well; then its lease runs out. Between
the ledger's word and the process's end a body may run on for some milliseconds; its token is worth nothing by then.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from celery.exceptions import TimeLimitExceeded
from django.conf import settings
from django.db import Error as DatabaseTrouble
from django.db import connection
from django.db.models.functions import Now

from apps.jobs import connections, lease, ledger, rescue
from apps.jobs.failures import Failure
from apps.jobs.health import heartbeat_file
from apps.jobs.ledger import Due
from apps.jobs.metrics import counts
from apps.jobs.models import Worker
from apps.jobs.pull import POOL

logger = logging.getLogger(__name__)

# A time limit and the end of a grace are kept to this precision (seconds).
TICK = 0.2
# A process that has to end does not wait long for a database (seconds).
PATIENCE = 2.0


@dataclass(frozen=True)
class Running:
    job: Due
    time_limit: float | None
    end_at: float


class Vitals:
    def __init__(self, queues: Sequence[str]) -> None:
        self.queues = list(queues)
        self.running: Running | None = None
        self.grace_ends: float | None = None
        self.leases = rescue.LeaseWatch()
        self.next_renewal = self.next_rescue = 0.0
        self.thread = threading.Thread(target=self._watch, name="vitals", daemon=True)

    def start(self) -> None:
        connections.patiently(self._introduce)
        self.thread.start()

    def _introduce(self) -> None:
        name = f"work-{os.getpid()}@{socket.gethostname()}"
        queues = {"queues": self.queues, "consuming": self.queues}
        Worker.objects.create(id=lease.worker_id(), name=name, pid=os.getpid(), **queues, pool=POOL, size=1)

    @contextmanager
    def of(self, job: Due, time_limit: float | None) -> Iterator[None]:
        """While the job runs. `time_limit` is the hard one, in seconds."""
        self.running = Running(job, time_limit, time.monotonic() + (time_limit or float("inf")))
        try:
            yield
        finally:
            self.running = None

    @property
    def is_stopping(self) -> bool:
        return self.grace_ends is not None

    def begin_stopping(self) -> None:
        """In a signal handler: nothing here may wait."""
        self.grace_ends = time.monotonic() + settings.JOBS_SHUTDOWN_GRACE.total_seconds()

    def end(self) -> None:
        """What the ledger still shows as ours is nobody's."""
        rescue.release(lease.worker_id())
        Worker.objects.filter(pk=lease.worker_id()).update(stopped_at=Now(), busy=0)

    def _watch(self) -> None:
        while True:
            try:
                self.look()
            except DatabaseTrouble as exc:  # whatever it is, the next renewal must come
                logger.warning("Leases were not renewed: %s", str(exc).strip())
                connection.close()
            except Exception:  # a thread that ends takes every later renewal with it
                logger.exception("What keeps this worker's leases has failed, and goes on")
            time.sleep(TICK)

    def look(self) -> None:
        now = time.monotonic()
        running = self.running
        if running is not None and now > running.end_at:
            self._out_of_time(running)
        if running is not None and self.grace_ends is not None and now > self.grace_ends:
            self._hand_back()
        if now >= self.next_renewal:
            self._renew(running)
            self.next_renewal = now + lease.renew_every()
        if now >= self.next_rescue:
            # Before it looks: what goes wrong there would else go wrong again in each tick.
            self.next_rescue = now + settings.JOBS_RESCUE_EVERY.total_seconds()
            self.leases.look()

    def _renew(self, running: Running | None) -> None:
        heartbeat_file.touch()
        Worker.objects.filter(pk=lease.worker_id()).update(heartbeat_at=Now(), busy=int(running is not None))
        if running is not None and rescue.renew([running.job.id], lease.worker_id()):
            self._cancelled(running)

    def _out_of_time(self, running: Running) -> None:
        job, failure = running.job, Failure.of(TimeLimitExceeded(running.time_limit))
        logger.warning("Job %s exceeds its hard time limit of %s s", job.id, running.time_limit)
        self._leave(lambda: _count("failed", job, ledger.bury(job.id, _token(job), failure)))

    def _cancelled(self, running: Running) -> None:
        job = running.job
        logger.warning("Job %s was cancelled, and has not stopped by itself", job.id)
        self._leave(lambda: _count("revoked", job, ledger.cancelled(job.id, _token(job))))

    def _hand_back(self) -> None:
        logger.warning("Grace is over: the running job is handed back.")
        self._leave(lambda: None)

    def _leave(self, settle: Callable[[], None]) -> NoReturn:
        """Settle the job, hand back whatever else the ledger shows as ours, and end this process's life."""
        try:
            connections.patiently(settle, PATIENCE)
            connections.patiently(self.end, PATIENCE)
            counts.write()
        except connections.LOST as exc:
            logger.warning("The lease has to run out, the ledger is away: %s", str(exc).strip())
        logging.shutdown()
        if self.is_stopping:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)  # it outlives this life, and would end the next one as it starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _token(job: Due) -> int:
    """No claim has the token 0: a job that is no longer ours stays as it is."""
    return lease.token_of(job.id) or 0


def _count(counter: str, job: Due, is_ended: bool) -> None:
    """What has ended by itself meanwhile was counted by the one who ran it."""
    if is_ended:
        counts.count(counter, job.task, job.queue)
