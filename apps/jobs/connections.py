"""Database connections that are kept between jobs, and checked.

Problem. Celery's Django fix-up closes the connection before and after every task, which costs four fifths of the
durable rate; a connection that is simply kept breaks all that follows when PostgreSQL restarts.

Guarantee. A connection lives as long as its thread. One that failed is replaced before the next job, and the ledger's
own statements wait out a restart (`patiently`).

Not guaranteed. A task that is in the middle of its own query when PostgreSQL goes away fails; its job runs again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError, connection
from psycopg.errors import InFailedSqlTransaction

# A server that was the primary until a moment ago answers, and refuses to write: that is PostgreSQL's "internal error".
LOST = (OperationalError, InterfaceError, InternalError)
# For who only looks: before `migrate`, and in the middle of one, a database has not all of its tables.
UNREADABLE = (*LOST, ProgrammingError)

# A server that restarts in good order is back in a few seconds; a fail-over takes up to half a minute.
PATIENCE_SECONDS = 30.0

T = TypeVar("T")


def is_lost(exc: BaseException) -> bool:
    """Whether the database was away. A body that goes on in a transaction that has failed hears of an "internal error",
    too, and each try would.
    """
    return isinstance(exc, LOST) and not isinstance(exc.__cause__, InFailedSqlTransaction)


def refresh() -> None:
    """Replace this thread's connection if its last use failed. A healthy one costs nothing."""
    if connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()


def close(**_: object) -> None:
    """For pools that run each job in a thread of its own (gevent): no other job will ever use this connection."""
    connection.close()


def patiently(transition: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
    """Call it, and again while the database is away. Only for what may be repeated, and outside a transaction."""
    give_up_at = time.monotonic() + patience
    pause = 0.1
    while True:
        try:
            return transition()
        except LOST:
            if connection.in_atomic_block or time.monotonic() > give_up_at:
                raise
        connection.close()
        time.sleep(pause)
        pause = min(pause * 2, 2.0)
