"""What the worker's main process does about a job whose child cannot: it was killed, or it ran out of time.

Celery's documented hook for that is a task's `Request` class.

Guarantee. A job whose process was lost is queued again, or dead with a letter, before its message is acknowledged; a
broker-only job's message is kept until its letter is written. A job that is no longer this worker's is left alone.

Not guaranteed. While the ledger is away for longer than `PATIENCE`, a job of the ledger waits for its lease to run out.
"""

import logging
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar
from uuid import UUID

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state
from celery.worker.request import Request
from django.db import DatabaseError, InterfaceError

from apps.jobs import connections, dead_letters, endings, lease, ledger, rescue
from apps.jobs.ahead import runtimes
from apps.jobs.attempt import is_long_ago, is_plain
from apps.jobs.failures import Failure, Kind
from apps.jobs.ids import job_id_of
from apps.jobs.metrics import meter
from apps.jobs.models import Job
from apps.jobs.options import OURS
from apps.jobs.redaction import redact

logger = logging.getLogger(__name__)

# The main process has other jobs' messages to serve: it does not wait long for a database (seconds).
PATIENCE = 2.0

T = TypeVar("T")


class JobRequest(Request):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in OURS:
            self._request_dict.pop(name, None)
        self.is_handed_back = False
        self._let_hard_limit_strike()
        meter.received(self)

    def _let_hard_limit_strike(self) -> None:
        """Celery's pool begins to watch the hard limit when the soft one strikes. A call that sets only a hard one may
        set it earlier than its task's soft one: then both strike at once.
        """
        hard, soft = self.time_limits  # type: ignore[has-type]
        soft = soft or self._task.soft_time_limit
        if hard and soft and soft > hard:
            self.time_limits = (hard, hard)

    @cached_property
    def job_id(self) -> UUID:
        return job_id_of(self.id)

    @property
    def has_row(self) -> bool:
        return bool(self._request_dict.get("ledger"))

    @property
    def tried(self) -> int:
        return self._request_dict.get("retries") or 0

    @property
    def token(self) -> int | None:
        token: int | None = self._request_dict.get("token")
        return token

    @property
    def waits_for_pool(self) -> bool:
        is_claimed = self.token is not None or not self.has_row
        return is_claimed and self._apply_result is None and not self.is_handed_back

    @property
    def is_with_pool(self) -> bool:
        """Whether it runs here, or will: of a prefork pool, a child was given the message, or a part of it."""
        if self._apply_result is None:
            return False
        return getattr(self._apply_result(), "_write_to", self) is not None

    @property
    def is_stuck(self) -> bool:
        """Claimed long ago and not begun, as the main loop stands still under a job of its own.

        The clock is read first. Whoever starts it later than that asks the ledger whether it is still ours.
        """
        return is_long_ago(self._request_dict.get("claimed_at")) and self.time_start is None

    def forgo(self) -> None:
        """It will not be started here."""
        self.is_handed_back = True
        state.task_ready(self)

    def give_back(self) -> None:
        """A broker-only job: the same message, for any worker."""
        self.forgo()
        self.acknowledged = True
        self.message.reject_log_error(logger, self._connection_errors, requeue=True)

    def grant(self, token: int, *, claimed_at: float, ends_here: bool) -> None:
        """The job is ours, since `claimed_at` on the machine's monotonic clock.

        `ends_here`: its plain success may be written by this process, together with others.
        """
        _, _, continued = self._payload
        self._request_dict |= {"token": token, "claimed_at": claimed_at}
        if ends_here and is_plain(self._task, self._request_dict, continued or {}):
            self._request_dict["ends_here"] = True
            self.on_success = self._write_success_first

    def _write_success_first(self, failed__retval__runtime: tuple[bool, Any, float], **fields: Any) -> None:
        failed, _, runtime = failed__retval__runtime
        # Celery's own again, which is of a class that it has made for the task. And a request that refers to itself
        # lives until Python's collector finds it, which took a tenth of this process's time.
        del self.on_success
        succeeded = partial(self.on_success, failed__retval__runtime, **fields)
        if failed or self.token is None:
            succeeded()
        else:
            state.task_ready(self, successful=True)  # nobody may kill its process for it any more
            endings.write_soon(endings.Ending(self.job_id, self.token, runtime, succeeded))

    def revoked(self) -> bool:
        """Celery asks before it hands the request to the pool."""
        return self.is_handed_back or bool(super().revoked())

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
        exc = _cause(exc_info)
        meter.ignored(self, exc)
        if lease.is_stopping() and (_worker_lost(exc) or isinstance(exc, Terminated)):
            self._hand_back()
        elif _worker_lost(exc) and self._in_ledger():
            self._child_lost(exc)
        elif isinstance(exc, Terminated) and self._in_ledger():
            self._child_terminated()
        elif self._in_ledger() or _is_no_failure(exc):
            # A hard time limit comes here first, and then to `on_timeout`, which says it if the job is still ours.
            is_said_later = isinstance(exc, TimeLimitExceeded) and not return_ok
            super().on_failure(exc_info, send_failed_event and not is_said_later, return_ok)
        else:
            self._fail(exc_info, exc, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A process past its hard limit is ended in any case. Its job is only ours to bury if it still runs it.

        After a lease was lost, this same worker may have been given the job anew; Celery knows it by its id alone.
        """
        if soft or self.token is None or self._holds_job():
            super().on_timeout(soft, timeout)
        else:
            logger.warning("%s[%s] ran out of time after it had lost its lease", self.name, self.id)
            state.task_ready(self)
            self.acknowledge()

    def _holds_job(self) -> bool:
        try:
            return connections.patiently(lambda: lease.token_of(self.job_id), PATIENCE) == self.token
        except connections.LOST:
            return True  # what then says so waits for the database

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name for it
        """Events are what is counted, and what Flower shows: errors and results without the job's secrets."""
        meter.event(self, type, fields)
        if type in ("task-succeeded", "task-failed", "task-retried") and self.time_start:
            runtimes.saw(fields.get("runtime") or time.time() - self.time_start)
        secrets = self._task.secrets_in(self.args, self.kwargs)
        if secrets:
            fields = {
                name: redact(value, secrets) if isinstance(value, str) else value for name, value in fields.items()
            }
        super().send_event(type, **fields)

    def _in_ledger(self) -> bool:
        return bool(self._task.durable or self._request_dict.get("ledger"))

    def _hand_back(self) -> None:
        """Our own shutdown ended it, uncounted. A message that is all there is goes back as the connection closes: of a
        broker-only job, or of another producer's whose child had not made a row of it.
        """
        state.task_ready(self)
        if self._in_ledger():
            released = self._tell_ledger(
                lambda: rescue.release(lease.worker_id(), {self.job_id: self.token}), if_away=0
            )
            if released or self.has_row:
                self.acknowledge()

    def _child_lost(self, exc: BaseException) -> None:
        state.task_ready(self)
        failure = Failure.worker_lost(f"The process that ran this job was lost: {exc}")
        state_now = self._tell_ledger(
            lambda: rescue.crashed(self.job_id, failure, lease.worker_id(), self.token),
            if_away=Job.State.QUEUED.value if self.has_row else None,  # it runs again, when its lease is over
        )
        if state_now is not None or self.has_row:
            self.acknowledge()
        else:
            # The child may not have made a row of it yet. If there is one after all, the claim drops the message.
            self.acknowledged = True
            lease.requeue_later(self.message, self._connection_errors)
            state_now = Job.State.QUEUED
        if state_now is not None:
            self.send_event(f"task-{rescue.counted_as(state_now)}", exception=repr(exc), traceback="")

    def _tell_ledger(self, transition: Callable[[], T], if_away: T) -> T:
        """At once; but if the database is away the job's lease runs out, and the relay does the same."""
        try:
            return connections.patiently(transition, PATIENCE)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s[%s] lost its process, and the ledger cannot be told: %s", self.name, self.id, error)
            return if_away

    def _child_terminated(self) -> None:
        """We ended it ourselves, because someone cancelled the job."""
        state.task_ready(self)
        # No claim has the token 0: a job that is no longer ours stays as it is.
        self._tell_ledger(
            lambda: ledger.cancelled(self.job_id, self.token or lease.token_of(self.job_id) or 0), if_away=False
        )
        self.acknowledge()

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Celery drops an expired message here. A job of the ledger expires in its row instead."""
        if not expired or self._write_letter(Failure.expired(self.expires)):
            super()._announce_revoked(reason, terminated, signum, expired)

    def _fail(self, exc_info: ExceptionInfo, exc: BaseException, send_failed_event: bool, return_ok: bool) -> None:
        secrets = self._task.secrets_in(self.args, self.kwargs)
        failure = Failure.of(exc, kind=self._kind(exc), secrets=secrets)
        if self._write_letter(failure):
            super().on_failure(exc_info, send_failed_event, return_ok)

    def _write_letter(self, failure: Failure) -> bool:
        """A broker-only job has no row: its message is kept until its dead letter is written, and runs again."""
        try:
            connections.patiently(lambda: dead_letters.write_for_request(self, failure), PATIENCE)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s[%s] failed, and its dead letter cannot be written yet: %s", self.name, self.id, error)
            state.task_ready(self)
            # Settled by the requeue: Celery's own acknowledgement, after a time limit, would come first.
            self.acknowledged = True
            lease.requeue_later(self.message, self._connection_errors)
            return False
        return True

    def _kind(self, exc: BaseException) -> Kind | None:
        return Kind.CRASHED if _worker_lost(exc) else self._task._kind(exc, self._request_dict.get("retries") or 0)


def _cause(exc_info: ExceptionInfo) -> BaseException:
    exc: BaseException = exc_info.exception
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc


def _worker_lost(exc: BaseException) -> bool:
    return isinstance(exc, WorkerLostError | SystemExit | KeyboardInterrupt)


def _is_no_failure(exc: BaseException) -> bool:
    return isinstance(exc, Retry | Ignore) or (isinstance(exc, Reject) and exc.requeue)
