"""Celery's results, read from the ledger: `AsyncResult(id)` is a view of the job's row.

Problem. A result backend is a second truth, which disagrees with the first after every crash, and a Redis that is away
makes `.delay()` wait for twenty seconds.

Guarantee. State and result are the row's own. The row is written by the ledger, so what Celery's tracer would store
here is dropped, but for the states that a task invents for its own job with `update_state` (outside of a transaction).

Not guaranteed. A broker-only job has no row and stays PENDING. `forget` forgets nothing: the row goes when retention
says so. The ledger has no rows for groups, so `GroupResult.save` and `restore` are refused.
"""

import builtins
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import celery.exceptions
from celery import states
from celery.backends.base import BaseBackend

from apps.jobs import chords, failures, ledger
from apps.jobs.ids import job_id_of
from apps.jobs.models import DeadLetter, Job
from apps.jobs.sensitive import mask

STATES = {
    Job.State.QUEUED: states.PENDING,
    Job.State.SENT: states.PENDING,
    Job.State.RUNNING: states.STARTED,
    Job.State.SUCCEEDED: states.SUCCESS,
    Job.State.DEAD: states.FAILURE,
    Job.State.CANCELLED: states.REVOKED,
}

NO_GROUPS = (
    "The ledger keeps jobs and no groups. Keep the ids of the group's jobs, and read them again by "
    "GroupResult(id, [AsyncResult(job_id) for job_id in ids])."
)


class LedgerBackend(BaseBackend):
    supports_autoexpire = True  # by the ledger's own retention
    persistent = True

    def _get_task_meta_for(self, task_id: str) -> Any:
        job = Job.objects.select_related("worker").filter(pk=job_id_of(task_id)).first()
        return self.meta_from_decoded(_meta(task_id, job) if job else _meta_without_row(task_id))

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Only what `self.update_state` reports of a running attempt; the ledger writes every end itself.

        Of another job (`task_id=`) nothing: only who holds a job's token may write to its row.
        """
        token = request.get("token") if request is not None and request.id == task_id else None
        if token is not None and state not in states.READY_STATES | {states.RETRY, states.STARTED}:
            ledger.report(job_id_of(task_id), token, {"state": state, "meta": result})
        elif token is not None and state == states.FAILURE and not isinstance(result, BaseException):
            request.says_it_failed = {"meta": result}  # by itself, and not by Celery's tracer; see `Attempt`
        return result

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Celery calls this before `on_failure`, and of a time limit twice. Whether a job in the ledger dies of it only
        the ledger knows, which starts the callbacks then (`apps.jobs.errbacks`).
        """
        call_errbacks = call_errbacks and not self._in_ledger(request)
        super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)

    def _in_ledger(self, request: Any) -> bool:
        if request is None or request.is_eager:
            return False
        return bool(request.get("ledger") or getattr(self.app.tasks.get(request.task), "durable", False))

    def _forget(self, task_id: str) -> None:
        """Nothing: the row is more than a result, and goes with the ledger's own retention."""

    def save_group(self, group_id: str, result: Any) -> NoReturn:
        raise NotImplementedError(NO_GROUPS)

    def restore_group(self, group_id: str, cache: bool = True) -> NoReturn:
        raise NotImplementedError(NO_GROUPS)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        group_id, parts = header_result_args[0], header_result_args[1]
        chords.await_parts(group_id, parts, body)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Nothing: the ledger counts a part in the transaction that ends it."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Nothing: `apps.jobs.chords` counts the parts when the body is recorded."""


def _meta(task_id: str, job: Job) -> dict[str, Any]:
    retrying = job.state in (Job.State.QUEUED, Job.State.SENT) and (job.errors or job.retries)
    meta: dict[str, Any] = {
        "task_id": task_id,
        "status": states.RETRY if retrying else STATES[Job.State(job.state)],
        "result": job.result,
        "traceback": None,
        "children": _children(job),
        "date_done": job.finished_at and job.finished_at.isoformat(),
        **_call(job),
    }
    if job.state == Job.State.RUNNING and job.progress:
        meta |= {"status": job.progress.get("state", "PROGRESS"), "result": job.progress.get("meta", job.progress)}
    if meta["status"] in states.EXCEPTION_STATES:
        meta |= _error(job)
    return meta


def _call(job: Job) -> dict[str, Any]:
    """What Celery keeps with `result_extended`; the row has it anyway."""
    return {
        "name": job.task,
        "args": mask(job.args),
        "kwargs": mask(job.kwargs),
        "worker": job.worker and job.worker.name,
        "retries": job.retries,
        "queue": job.queue,
    }


def _children(job: Job) -> list[Any]:
    """What it started, and what came after it, as Celery tells it of a task that has succeeded."""
    if job.state != Job.State.SUCCEEDED:
        return []
    children = Job.objects.filter(parent_id=job.pk).order_by("created_at", "pk").values_list("pk", flat=True)
    return [((str(child), None), None) for child in children]


def _error(job: Job) -> dict[str, Any]:
    if job.state == Job.State.CANCELLED:
        last = {"exception": "TaskRevokedError", "message": "cancelled"}
    else:  # `self.retry()` without an error has left none
        last = job.errors[-1] if job.errors else {"exception": "Retry", "message": "The task asked to be tried again."}
    name, message = last["exception"], last["message"]
    return {
        "result": {"exc_type": name, "exc_message": [message], "exc_module": _module_of(last)},
        "traceback": last.get("traceback"),
    }


def _module_of(error: Mapping[str, Any]) -> str:
    """Errors that can be made of their message are themselves again; of any other Celery makes a class of this name."""
    for module in (sys.modules.get(error.get("module", "")), builtins, celery.exceptions, failures):
        known = getattr(module, error["exception"], None)
        if module and isinstance(known, type) and issubclass(known, BaseException):
            with suppress(Exception):
                known(error["message"])
                return module.__name__
    return "unknown"


def _meta_without_row(task_id: str) -> dict[str, Any]:
    """A chord's body that will never start has a dead letter and no row; anything else is unknown, as in Celery."""
    meta: dict[str, Any] = {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None}
    letter = DeadLetter.objects.filter(job_id=job_id_of(task_id)).first()
    if letter is not None:
        error = {"exc_type": "ChordError", "exc_message": [letter.message], "exc_module": "celery.exceptions"}
        meta |= {"status": states.FAILURE, "result": error}
    return meta
