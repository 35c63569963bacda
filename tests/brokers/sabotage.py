"""Ways to break one capability on purpose, in the relay and in the workers of an installation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from apps.jobs import ledger, rescue
from apps.jobs.failures import Failure
from apps.jobs.ledger import NewJob


def send_nothing() -> None:
    from apps.jobs.relay import Relay

    Relay._publish = lambda _, due: list(due)  # type: ignore[assignment, method-assign]


def send_too_early() -> None:
    ledger.TAKE_DUE = ledger.TAKE_DUE.replace("AND run_at <= statement_timestamp()", "")


def send_to_another_queue() -> None:
    _change_what_is_due(queue="low")


def forget_priorities() -> None:
    _change_what_is_due(priority=None)


def _change_what_is_due(**changes: Any) -> None:
    take_due = ledger.take_due
    ledger.take_due = lambda *given: [replace(job, **changes) for job in take_due(*given)]


def bury_instead_of_a_retry() -> None:
    def bury(job_id: UUID, token: int, _: NewJob, failure: Failure | None) -> None:
        ledger.bury(job_id, token, failure or Failure.worker_lost())

    ledger.retry = bury  # type: ignore[assignment]


def write_no_letters() -> None:
    from apps.jobs.models import DeadLetter

    DeadLetter.objects.bulk_create = lambda *_, **__: []  # type: ignore[method-assign]


def claim_what_is_taken() -> None:
    """Whatever its state; and whatever it has been tried, since each claim of a row raises no retries."""
    ledger.CLAIM = ledger.CLAIM.replace(
        "CASE state WHEN 'sent' THEN true WHEN 'queued' THEN run_at <= statement_timestamp() ELSE false END", "true"
    )


def forget_dead_workers() -> None:
    rescue.hand_on_expired = lambda *_: 0


def keep_jobs_at_a_stop() -> None:
    rescue.release = lambda *_: 0


def believe_the_broker() -> None:
    from apps.jobs.broker import BrokerWatch

    BrokerWatch.resend_lost = lambda _: 0  # type: ignore[assignment, method-assign]


def drop_the_unknown() -> None:
    from apps.jobs.consumer import JobConsumer

    JobConsumer.on_unknown_task = lambda *given: given[2].ack()  # type: ignore[method-assign]


def drop_the_unreadable() -> None:
    from apps.jobs.consumer import JobConsumer

    JobConsumer.bury = lambda *given: given[1].ack()  # type: ignore[method-assign]


def ignore_pauses() -> None:
    for statement in ("TAKE_DUE", "NEXT_DUE", "CLAIM"):
        setattr(ledger, statement, getattr(ledger, statement).replace(ledger.PAUSED, "SELECT ''"))


def ignore_wishes_to_cancel() -> None:
    renew = rescue.renew
    ledger.report = lambda *_: False
    rescue.renew = lambda *given: renew(*given) and []


def ignore_what_was_given_up() -> None:
    from apps.jobs import consumer
    from apps.jobs.brokers.rabbitmq import RabbitMQMemory

    RabbitMQMemory.given_up = lambda _: iter(())  # type: ignore[assignment, method-assign]
    consumer.comes_for_ever = lambda message: message is None


BREAK: dict[str, Callable[[], None]] = {
    "drain": send_nothing,
    "retries": bury_instead_of_a_retry,
    "eta": send_too_early,
    "routing": send_to_another_queue,
    "priority": forget_priorities,
    "letters": write_no_letters,
    "duplicates": claim_what_is_taken,
    "killed": forget_dead_workers,
    "given_up": ignore_what_was_given_up,
    "deploy": keep_jobs_at_a_stop,
    "forgets": believe_the_broker,
    "unknown": drop_the_unknown,
    "undecodable": drop_the_unreadable,
    "depth": send_nothing,
    "pause": ignore_pauses,
    "cancel": ignore_wishes_to_cancel,
}
