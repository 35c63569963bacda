"""One attempt: the task's body, and what the ledger is told of how it went.

Problem. Between the end of a body and the note that it ended, a process can die; and between that note and what was to
come next (a chain, a chord) it can die again.

Guarantee. A job's success, its result and its continuations are one transaction, under the claim's token. With
`atomic=True` the body's own database work is in it too, also of a body that ends by Ignore or replaces itself. What is
neither success nor failure (a snooze, a cancel, a database that went away) is settled here, and Celery only
acknowledges the message.

Not guaranteed. Without `atomic=True` a crash just before that transaction runs the body again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.canvas import maybe_signature
from celery.exceptions import Ignore, Reject
from django.conf import settings
from django.db import transaction
from kombu.exceptions import EncodeError

from apps.jobs import chords, connections, ledger, rescue, sensitive
from apps.jobs.backpressure import QueueFull, accepted
from apps.jobs.failures import BadResult, Failure, Kind
from apps.jobs.ids import job_id_of
from apps.jobs.jsonb import dumps
from apps.jobs.models import Job
from apps.jobs.progress import Cancelled
from apps.jobs.snooze import Snooze

if TYPE_CHECKING:
    from apps.jobs.task import JobTask

# What ends an attempt without being an end that the body wished for: an atomic body's work is undone.
UNDONE = (Snooze, Cancelled, ledger.LeaseLost)
# How long a job that its task rejected with requeue=True waits: at once would be a loop as fast as the machine.
REQUEUE_AFTER = 5.0


class Settled(Ignore):
    """The ledger has been told. `counted_as`: what became of the job, in the words of Celery's events."""

    def __init__(self, message: str, counted_as: str | None) -> None:
        super().__init__(message)
        self.counted_as = counted_as

    # It goes to the main process through a pipe.
    def __reduce__(self) -> tuple[type["Settled"], tuple[str, str | None]]:
        return type(self), (str(self), self.counted_as)


class Attempt:
    def __init__(self, task: "JobTask", body: Callable[..., Any]) -> None:
        self.task = task
        self.body = body
        self.request = task.request
        self.job_id = job_id_of(self.request.id)
        self.token: int = self.request.token

    def run(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the body's result. Raises the body's error for Celery to deal with, or Ignore if it is settled."""
        with self.settled():
            self._begin()
            result = self._run_to_the_end(args, sensitive.unseal(kwargs))
        self.request.callbacks = self.request.chain = None  # continued in `_succeed`, not by Celery's tracer
        return result

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Around what belongs to the attempt: the ledger is told of what is neither success nor failure."""
        try:
            yield
        except Settled:
            raise
        except (Ignore, Reject, QueueFull, *connections.LOST) as outcome:
            if isinstance(outcome, connections.LOST) and not connections.is_lost(outcome):
                raise  # the body's own mistake
            reason = outcome
            counted_as = connections.patiently(lambda: self._settle(reason))
            if isinstance(outcome, Ignore) and counted_as is None:
                raise  # as it is: the main process counts snoozes and cancellations
            raise Settled(str(outcome), counted_as) from outcome

    def _begin(self) -> None:
        """A job that was claimed before may have been in a worker that died: from then on a crash counts only if its
        body had begun. And what was claimed long ago, by a process that then stood still, may be another's by now.
        """
        if self.token > 1 or is_long_ago(self.request.get("claimed_at")):
            connections.patiently(lambda: ledger.begin(self.job_id, self.token))

    def _run_to_the_end(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        if self.task.atomic:
            return self._run_atomically(args, kwargs)
        result = self.body(*args, **kwargs)
        is_written_by_main_process = self.request.get("ends_here") and not self.request.get("again")
        if not is_written_by_main_process:
            connections.patiently(lambda: self._succeed(result))
        return result

    def _run_atomically(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        with transaction.atomic():
            try:
                result = self.body(*args, **kwargs)
            except Ignore as outcome:
                if isinstance(outcome, UNDONE) or transaction.get_rollback():  # after a caught error of the database
                    raise
                counted_as, ignored = self._ignored(), outcome
            else:
                self._succeed(result)
                return result
        raise Settled(str(ignored), counted_as) from ignored

    def _succeed(self, result: Any) -> None:
        """Write the end and start what comes after it, in one transaction: neither can be without the other."""
        request = self.request
        kept = readable(self.task, result)
        if request.get("again"):
            ledger.retry(self.job_id, self.token, request.again, None)  # self.retry(throw=False)
        elif not (request.chord or request.callbacks or request.chain):
            ledger.succeed(self.job_id, self.token, kept)
        else:
            with transaction.atomic(), accepted():
                ledger.succeed(self.job_id, self.token, kept)
                self._continue(result)

    def _continue(self, result: Any) -> None:
        """What a chord, `link` and a chain say comes next, with the options that Celery's own tracer gives it."""
        request = self.request
        family = {"parent_id": request.id, "root_id": request.root_id or request.id}
        if request.chord and request.group:
            chords.part_succeeded(request.group)
        for callback in request.callbacks or ():
            maybe_signature(callback, app=self.task.app).apply_async((result,), **family)
        if request.chain:
            following = maybe_signature(request.chain[-1], app=self.task.app)
            following.apply_async((result,), chain=request.chain[:-1], **family)

    def _settle(self, outcome: BaseException) -> str | None:
        """Returns as what it is counted, where the outcome does not say so itself."""
        match outcome:
            case Snooze():
                ledger.snooze(self.job_id, self.token, outcome.seconds)
            case QueueFull():
                ledger.snooze(self.job_id, self.token, outcome.retry_after)
            case Cancelled():
                ledger.cancelled(self.job_id, self.token)
            case ledger.LeaseLost():
                pass  # whoever holds the job now will end it
            case Reject():
                return self._rejected(outcome)
            case Ignore():
                try:
                    return self._ignored()
                except (QueueFull, Cancelled) as undone:
                    return self._settle(undone)
            case _:
                return self._lost_database(outcome)
        return None

    def _rejected(self, reject: Reject) -> str | None:
        if reject.requeue:
            ledger.snooze(self.job_id, self.token, REQUEUE_AFTER)
            return None
        return self._bury(self._failure(reject), reject)

    def _bury(self, failure: Failure, error: BaseException | None = None) -> str | None:
        return "failed" if ledger.bury(self.job_id, self.token, failure, error) else None

    def _ignored(self) -> str | None:
        """`raise Ignore()` is the task's way to say that it is done, or that it has failed, if it has just set that
        state. `self.replace` raises it too.
        """
        if self.request.get("says_it_failed"):
            return self._bury(Failure.said(self.request.says_it_failed["meta"], secrets=self._secrets()))
        if self.request.get("replacement") is not None:
            self._replace(self.request.replacement)
        elif self.request.get("again"):
            ledger.retry(self.job_id, self.token, self.request.again, None)
        elif self.request.chord or self.request.chain:
            with transaction.atomic(), accepted():
                ledger.succeed(self.job_id, self.token)
                chords.part_ignored(Job.objects.get(pk=self.job_id))
        else:
            ledger.succeed(self.job_id, self.token)
        return None

    def _replace(self, replacement: Any) -> None:
        """By one task: the same row, rewritten. By more: the last of them has this job's id, and needs its place.

        By nothing, if a queue is full (`QueueFull`), or somebody wished to cancel the job meanwhile (`Cancelled`).
        """
        with transaction.atomic():
            replacement.delay()
            if self.request.get("again"):
                ledger.retry(self.job_id, self.token, self.request.again, None)
            else:
                self._make_room()

    def _make_room(self) -> None:
        if not ledger.make_room(self.job_id, self.token):
            raise Cancelled("cancelled before it was replaced")

    def _lost_database(self, outcome: BaseException) -> str | None:
        """Not the task's fault: it runs again, counted like a crash so that it cannot go on for ever.

        If the database stays away, the lease runs out and the relay does the same.
        """
        state_now = rescue.crashed(self.job_id, self._failure(outcome, Kind.CRASHED), token=self.token)
        return state_now and rescue.counted_as(state_now)

    def _failure(self, exc: BaseException, kind: Kind | None = None) -> Failure:
        return Failure.of(exc, kind=kind, secrets=self._secrets())

    def _secrets(self) -> list[str]:
        return self.task.secrets_in(self.request.args, self.request.kwargs)


def is_long_ago(claimed_at: float | None) -> bool:
    """By the machine's own clock, which main process and child share. A fresh claim does not need to be asked for."""
    return claimed_at is not None and time.monotonic() - claimed_at > settings.JOBS_LEASE.total_seconds() / 2


def is_plain(task: "JobTask", headers: Mapping[str, Any], continued: Mapping[str, Any]) -> bool:
    """Whether a success is no more than that: nothing of it is kept, and nothing comes after it in its transaction."""
    asked = headers.get("ignore_result")
    is_kept = not (task.ignore_result if asked is None else asked)
    return not (is_kept or task.atomic or any(continued.get(name) for name in ("callbacks", "chain", "chord")))


def readable(task: "JobTask", result: Any) -> Any:
    """The result, where someone will read it: a caller who asked, or a chord's body. Raises `BadResult`."""
    asked = task.request.get("ignore_result")
    if (task.ignore_result if asked is None else asked) and not task.request.chord:
        return None
    try:
        dumps(result)
    except (EncodeError, TypeError, ValueError) as exc:
        raise BadResult(f"The result of {task.name} cannot be written as JSON: {exc}") from exc
    return result
