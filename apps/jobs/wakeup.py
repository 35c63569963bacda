"""Waiting for PostgreSQL to say that a job is due.

LISTEN has a connection of its own, on which nothing else is asked: a notification that arrives together with another
query's answer would sit unseen in the client's buffer until the next poll.

Not guaranteed. A notification of the moment in which the connection is made anew is missed, so whoever waits polls too.
"""

from typing import Any

import psycopg
from django.db import OperationalError, connection

from apps.jobs.ledger import CHANNEL

# What Django gives its own connections for their queries. All else says where the server is, who we are, and how to
# notice that it is gone.
FOR_QUERIES = ("context", "cursor_factory", "client_encoding", "prepare_threshold")


class Ear:
    def __init__(self) -> None:
        self._session: psycopg.Connection[Any] | None = None

    def wait(self, timeout: float) -> bool:
        """Whether something was recorded within `timeout` seconds. Raises OperationalError without a database."""
        try:
            return any(self._listening().notifies(timeout=timeout, stop_after=1))
        except psycopg.Error as exc:
            self.close()
            raise OperationalError(str(exc)) from exc

    def _listening(self) -> "psycopg.Connection[Any]":
        if self._session is None:
            parameters = connection.get_connection_params()
            address = {name: value for name, value in parameters.items() if name not in FOR_QUERIES}
            session = psycopg.connect(**{"connect_timeout": 5, **address, "autocommit": True})
            try:
                session.execute(f"LISTEN {CHANNEL}")
            except psycopg.Error:
                session.close()  # or it would be taken for one that listens
                raise
            self._session = session
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
