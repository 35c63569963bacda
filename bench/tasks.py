"""What Nightshift runs here: the same bodies as plain Celery's, with the project's own settings."""

from celery import shared_task
from django.db import connection

from bench import written
from bench.stamps import stamp_now


@shared_task(name="bench.nothing")
def nothing() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(name="bench.stamp")
def stamp() -> None:
    """Safe to run twice: the second stamp has no reader."""
    stamp_now()


@shared_task(name="bench.write")
def write() -> None:
    """Safe to run twice: nobody counts the rows."""
    _write()


@shared_task(name="bench.nothing_atomic", atomic=True)
def nothing_atomic() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(name="bench.write_atomic", atomic=True)
def write_atomic() -> None:
    """Safe to run twice: its row and its end are one transaction."""
    _write()


@shared_task(name="bench.nothing_broker_only", durable=False)
def nothing_broker_only() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(name="bench.stamp_broker_only", durable=False)
def stamp_broker_only() -> None:
    """Safe to run twice: the second stamp has no reader."""
    stamp_now()


@shared_task(name="bench.write_broker_only", durable=False)
def write_broker_only() -> None:
    """Safe to run twice: nobody counts the rows."""
    _write()


def _write() -> None:
    with connection.cursor() as cursor:
        cursor.execute(written.WRITE)
