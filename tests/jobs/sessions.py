"""Other processes, as the database sees them: connections of their own, used in turn by one test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections, transaction


class Session:
    """One database connection. It does not wait long for another's lock, because that other one waits for us."""

    def __init__(self, lock_timeout: str = "20ms") -> None:
        self._connection = connections.create_connection("default")
        self._open: transaction.Atomic | None = None
        with self.current() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{lock_timeout}'")

    @contextmanager
    def current(self) -> Iterator[Any]:
        """What uses the database in this block uses this connection."""
        before = connections["default"]
        connections["default"] = self._connection
        try:
            yield self._connection
        finally:
            connections["default"] = before

    @property
    def is_in_transaction(self) -> bool:
        return self._open is not None

    def begin(self) -> None:
        self._open = transaction.atomic()
        with self.current():
            self._open.__enter__()

    def commit(self) -> None:
        self._end()

    def rollback(self) -> None:
        with self.current():
            transaction.set_rollback(True)
        self._end()

    def _end(self) -> None:
        assert self._open is not None
        block, self._open = self._open, None
        with self.current():
            block.__exit__(None, None, None)

    def close(self) -> None:
        if self._open:
            self.rollback()
        self._connection.close()


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock')"
        )
        return bool(cursor.fetchone()[0])
