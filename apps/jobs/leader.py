"""One leader among any number of processes.

Problem. Two schedulers double every run; a single one is a machine whose death nobody notices.

Guarantee. At most one process holds a name in a database: the lock belongs to a session of PostgreSQL, so it is free
the moment its holder dies, and a holder that freezes or is cut off loses it after `IDLE`. Whoever loses the session
learns it at the next `hold()`.

Not guaranteed. Between two calls of `hold()` a process may be leader no longer. What must not happen twice needs a row
lock of its own. A connection pooler in transaction mode would lend the session to others: connect past it.
"""

from typing import Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from apps.jobs import connections

# A leader asks at least every few seconds. One that has been silent for this long is frozen or unreachable.
IDLE = "20s"


class Leadership:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_held = False
        self._session: BaseDatabaseWrapper | None = None

    def hold(self) -> bool:
        """Keep the lead, or take it if it is free. Raises OperationalError, and holds nothing, without a database."""
        try:
            if self.is_held:
                self._ask("SELECT 1")
            else:
                self.is_held = self._ask("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", self.name)
        except connections.LOST:
            self.give_up()
            raise
        return self.is_held

    def _ask(self, question: str, *values: Any) -> Any:
        if self._session is None:
            self._session = connection.copy()
            self._ask("SELECT set_config('idle_session_timeout', %s, false)", IDLE)
        with self._session.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchone()[0]

    def give_up(self) -> None:
        """The next in line may take over at once."""
        self.is_held = False
        if self._session is not None:
            self._session.close()
            self._session = None
