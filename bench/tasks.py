"""What Nightshift runs here: the same bodies as plain Celery's, as durable tasks with the project's own settings."""

from celery import shared_task

from bench.stamps import stamp_now


@shared_task(name="bench.nothing")
def nothing() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(name="bench.stamp")
def stamp() -> None:
    """Safe to run twice: the second stamp has no reader."""
    stamp_now()


@shared_task(name="bench.nothing_broker_only", durable=False)
def nothing_broker_only() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(name="bench.stamp_broker_only", durable=False)
def stamp_broker_only() -> None:
    """Safe to run twice: the second stamp has no reader."""
    stamp_now()
