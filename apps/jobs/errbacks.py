"""`link_error`, for a death that no attempt reports: too many crashes, expired, an unknown task, no message possible.

Problem. Celery calls these callbacks where the task raised. A job that dies elsewhere has no such place.

Guarantee. A callback that is a task taking the dead job's id is recorded in the transaction in which the job dies. One
that cannot be recorded is a dead letter.

Not guaranteed. A callback that takes `(request, exc, traceback)` is called after that commit, in the process that
buried the job, at most once; of the error it gets the name and the message.
"""

import logging
from functools import partial
from typing import Any

from celery import current_app
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.utils.serialization import create_exception_cls
from django.db import transaction

from apps.jobs.backpressure import QueueFull
from apps.jobs.failures import Failure, Kind
from apps.jobs.ids import uuid7
from apps.jobs.models import DeadLetter, Job

logger = logging.getLogger(__name__)


def start(job: Job, failure: Failure) -> None:
    """In the transaction in which the job dies."""
    for callback in job.options.get("link_error", ()):
        if not isinstance(callback, dict):
            logger.warning("%s has a callback that is no signature: %r", job, callback)
            continue
        errback = maybe_signature(callback, app=current_app)
        if _wants_the_error(errback):
            error = create_exception_cls(failure.exception, "apps.jobs.failures")(failure.message)
            transaction.on_commit(partial(errback, _request_of(job), error, None), robust=True)
        else:
            _record(errback, job)


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


def _record(errback: Any, job: Job) -> None:
    """Whatever keeps the callback from starting must not keep the job from dying, which would come back for ever."""
    try:
        with transaction.atomic():
            errback.apply_async((str(job.pk),), parent_id=str(job.pk), root_id=str(job.root_id or job.pk))
    except (QueueFull, LookupError, TypeError, ValueError) as exc:
        logger.warning("The callback %s of %s could not be started: %s", errback.task, job, exc)
        args = [] if errback.immutable else [str(job.pk)]
        letter = DeadLetter(
            job_id=uuid7(),
            task=errback.task,
            args=[*args, *errback.args],
            kwargs=dict(errback.kwargs),
            queue=errback.options.get("queue") or "",
            **Failure.of(exc, kind=Kind.DEPENDENCY).as_letter(errback.task),
        )
        letter.save()
