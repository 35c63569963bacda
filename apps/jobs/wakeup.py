"""Waiting for PostgreSQL to say that a job is due.

LISTEN has a connection of its own, on which nothing else is asked: a notification that arrives together with another
query's answer would sit unseen in the client's buffer until the next poll.

Not guaranteed. A notification of the moment in which the connection is made anew is missed, so whoever waits polls too.
"""

from typing import Any

import psycopg
from django.db import OperationalError, connection

from apps.jobs.ledger import CHANNEL

# What names the server and the account, and notices that the server is gone, of all that Django gives its own
# connections.
ADDRESS = (
    *("host", "port", "user", "password", "dbname", "sslmode"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
)


class Ear:
    def __init__(self) -> None:
        self._session: psycopg.Connection[Any] | None = None

    def wait(self, timeout: float) -> bool:
        """Whether something was recorded within `timeout` seconds. Raises OperationalError without a database."""
        try:
            return any(self._listening().notifies(timeout=timeout, stop_after=1))
        except psycopg.OperationalError as exc:
            self.close()
            raise OperationalError(str(exc)) from exc

    def _listening(self) -> "psycopg.Connection[Any]":
        if self._session is None:
            parameters = connection.get_connection_params()
            address = {name: parameters[name] for name in ADDRESS if name in parameters}
            self._session = psycopg.connect(**address, autocommit=True, connect_timeout=5)
            self._session.execute(f"LISTEN {CHANNEL}")
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
