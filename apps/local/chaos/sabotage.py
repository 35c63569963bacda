"""Take one safeguard out, to see that the audit notices. A checker that never failed proves nothing.

Which one is named by an environment variable that only the processes of such a run have; production code has no hook.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

from django.db import connection

from apps.jobs import ledger
from apps.jobs.consumer import JobConsumer
from apps.jobs.models import Job
from apps.jobs.relay import Relay
from apps.local.chaos import tasks
from apps.payments import client
from apps.payments import services as payments
from apps.payments.client import Intent
from apps.payments.models import Charge

logger = logging.getLogger(__name__)

VARIABLE = "NIGHTSHIFT_SABOTAGE"


def without_fencing() -> None:
    """Whoever comes last writes the end: an attempt shows the row's token instead of its own."""
    for name in ("succeed", "retry", "snooze", "report", "bury", "cancelled"):
        setattr(ledger, name, _with_any_token(getattr(ledger, name)))
    ledger.succeed_many = _many_with_any_token(ledger.succeed_many)


def _many_with_any_token(transition: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(transition)
    def unfenced(endings: Collection[tuple[UUID, int, float]]) -> Any:
        tokens = dict(Job.objects.filter(pk__in=[ending[0] for ending in endings]).values_list("pk", "token"))
        return transition([(job_id, tokens.get(job_id, token), runtime) for job_id, token, runtime in endings])

    return unfenced


def _with_any_token(transition: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(transition)
    def unfenced(job_id: UUID, token: int | None, *args: Any, **kwargs: Any) -> Any:
        if token is not None:
            token = Job.objects.filter(pk=job_id).values_list("token", flat=True).first()
        return transition(job_id, token, *args, **kwargs)

    return unfenced


def without_rescue() -> None:
    """The relay publishes, and looks after nobody."""
    Relay.rescue = _nothing  # type: ignore[method-assign]  # the point is to break it


def without_claim() -> None:
    """Every message runs its job, whatever the ledger says about it."""
    ledger.claim = _claim_anything


def _claim_anything(messages: Mapping[UUID, int], worker_id: UUID | None) -> dict[UUID, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET state = 'running', token = token + 1, attempts = attempts + 1, worker_id = %s,"
            " finished_at = NULL, lease_until = clock_timestamp() + interval '4 seconds'"
            " WHERE id = ANY(%s) RETURNING id, token",
            [worker_id, list(messages)],
        )
        return dict(cursor.fetchall())


def without_letters() -> None:
    """A job dies, and nobody is told."""
    ledger.write_letter = _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """What stands where a safeguard stood."""


def without_idempotency() -> None:
    """Each attempt at a charge asks Stripe anew, under a key of its own."""
    Charge.idempotency_key = property(lambda _charge: uuid4().hex)  # type: ignore[assignment,method-assign]
    payments._intent_of = _new_intent  # noqa: SLF001 - the point is to break it


def _new_intent(charge: Charge, *_: Any, **__: Any) -> Intent:
    purse, metadata = payments._purse(charge), payments._metadata(charge)  # noqa: SLF001
    intent = client.create_intent(purse, metadata=metadata, key=charge.idempotency_key)
    charge.payment_intent = intent.id
    return intent


def without_atomicity() -> None:
    """The row of a job's effect is committed by itself, and not with the job's end."""
    tasks.effect.atomic = False


def without_letters_for_messages() -> None:
    """What is no task call is dropped."""
    JobConsumer.bury = _drop  # type: ignore[assignment,method-assign]


def _drop(consumer: JobConsumer, message: Any, *_: Any) -> None:
    message.ack_log_error(logger, consumer.connection_errors)


SAFEGUARDS: dict[str, Callable[[], None]] = {
    "fencing": without_fencing,
    "rescue": without_rescue,
    "idempotency": without_idempotency,
    "claim": without_claim,
    "letters": without_letters,
    "atomicity": without_atomicity,
    "messages": without_letters_for_messages,
}


def apply() -> None:
    missing = os.environ.get(VARIABLE)
    if missing:
        SAFEGUARDS[missing]()
