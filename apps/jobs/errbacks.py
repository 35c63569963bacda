"""`link_error`: what starts when a job dies.

Problem. Celery starts these callbacks before anybody has asked whether the attempt still holds the job, in a
transaction of their own; and only where a task raised: a job also dies elsewhere (crashes, expired, an unknown task).

Guarantee. A callback that is a task taking the dead job's id is recorded in the transaction in which the job dies:
once, or not at all. One that cannot be recorded is a dead letter, and does not keep the job from its end.

Not guaranteed. A callback that takes `(request, exc, traceback)` is called after that commit, in the process that
buried the job, at most once; of an error that no attempt raised it gets the name and the message. The message of a
broker-only callback goes out before the commit.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from celery import current_app
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.utils.functional import maybe_list
from celery.utils.serialization import create_exception_cls
from django.db import transaction

from apps.jobs import connections
from apps.jobs.failures import Failure, Kind, plain
from apps.jobs.ids import uuid7
from apps.jobs.models import DeadLetter, Job

logger = logging.getLogger(__name__)

T = TypeVar("T")


def start(job: Job, failure: Failure, error: BaseException | None = None) -> None:
    """In the transaction in which the job dies. `error`: what the attempt raised, if an attempt ended it."""
    for callback in maybe_list(job.options.get("link_error")) or ():
        if not isinstance(callback, dict):
            logger.warning("%s has a callback that is no signature: %r", job, callback)
            continue
        try:
            with transaction.atomic():
                _start(callback, job, failure, error)
        except connections.LOST:
            raise  # the job's own end is not written either, and is tried again
        except Exception as exc:  # noqa: BLE001 - a job that cannot die would run again and again
            logger.warning("The callback %r of %s could not be started: %s", callback.get("task"), job, exc)
            _write_letter(callback, job, exc)


def _start(callback: dict[str, Any], job: Job, failure: Failure, error: BaseException | None) -> None:
    errback = maybe_signature(callback, app=current_app)
    if _wants_the_error(errback):
        if error is None:
            error = create_exception_cls(failure.exception, "apps.jobs.failures")(failure.message)
        call = partial(errback, _request_of(job), error, failure.traceback or None)
        transaction.on_commit(call, robust=True)
    else:
        errback.apply_async((str(job.pk),), parent_id=str(job.pk), root_id=str(job.root_id or job.pk))


def _wants_the_error(errback: Any) -> bool:
    """By Celery's own rule. A task that this process does not know is sent to one who does."""
    header = getattr(current_app.tasks.get(errback.task), "__header__", None)
    is_bound = isinstance(header, partial)
    return header is not None and not is_bound and current_app.backend._errback_arity_greater(errback, 1)


def _request_of(job: Job) -> Context:
    names = ("task", "args", "kwargs", "retries")
    lineage = {name: value and str(value) for name, value in (("parent_id", job.parent_id), ("root_id", job.root_id))}
    fields = {name: getattr(job, name) for name in names}
    return Context(id=str(job.pk), delivery_info={"routing_key": job.queue}, **fields, **lineage)


def _write_letter(callback: Mapping[str, Any], job: Job, exc: Exception) -> None:
    """Of what can be read of the callback: a producer that is not ours may have written anything."""
    task, options = _field(callback, "task", str), _field(callback, "options", dict)
    task = plain(task, 255)
    args = [] if callback.get("immutable") else [str(job.pk)]
    letter = DeadLetter(
        job_id=uuid7(),
        task=task,
        args=[*args, *_field(callback, "args", list)],
        kwargs=_field(callback, "kwargs", dict),
        queue=_field(options, "queue", str)[:100],
        **Failure.of(exc, kind=Kind.DEPENDENCY).as_letter(task),
    )
    letter.save()


def _field(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Empty, if it is missing or of another type."""
    value = fields.get(name)
    return value if isinstance(value, kind) else kind()
