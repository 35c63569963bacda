"""Things that a worker's main process gathers for a moment, to write them to the ledger in one statement.

Guarantee. What was added is written, however long the database is away or whatever else is wrong; in the order in which
it came.

Not guaranteed. It is in memory until then: a worker that is killed has written nothing of it.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import DatabaseError, InterfaceError, connection

from apps.jobs import connections

logger = logging.getLogger(__name__)

# While the database is away. Shorter than any lease, long enough not to be in the way of other work.
TRY_AGAIN = 1.0
# A loop that delivers a batch, or runs jobs itself, fires its timers late. Later than this, the timer is lost: with a
# connection Celery cancels those that were set while it was made.
LATE = 0.5

T = TypeVar("T")


class Batch(Generic[T]):
    """`write` gets a list, and either writes all of it or raises; then it is called again with the same, and more."""

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        self.write = write
        self.timer: Any = None  # Celery's, in a worker with an event loop
        self.items: list[T] = []
        self.due = -math.inf

    def add(self, item: T, within: float) -> None:
        """Have it written in so many seconds; with 0, as soon as what has arrived by now is read."""
        self.items.append(item)
        self._flush_by(time.monotonic() + within)

    def _flush_by(self, by: float) -> None:
        """By one timer for all: Celery's loop fires ten in a turn, and with more of them due it may sleep a second."""
        now = time.monotonic()
        if not now - LATE <= self.due <= by:
            self.due = by
            self.timer.call_after(max(0.0, by - now), self._flush_if_due, (by,))

    def _flush_if_due(self, by: float) -> None:
        """A timer whose batch was written sooner must not cut the next one short."""
        if by == self.due:
            self.flush()

    def flush_if_late(self) -> None:
        """The timer was lost. The next item would set it again, but a worker may get none for hours."""
        if self.items and self.due < time.monotonic() - LATE:
            self.flush()

    def flush(self) -> None:
        items, self.items, self.due = self.items, [], -math.inf
        if not items:
            return
        try:
            connections.refresh()
            self.write(items)
        except (DatabaseError, InterfaceError) as exc:
            # Also what is no outage: while a deploy migrates a table, code may be newer than its columns.
            logger.warning("The ledger cannot be written, %d jobs wait for it: %s", len(items), str(exc).strip())
            connection.close()
            self._keep(items)
        except Exception:
            self._keep(items)  # whoever is wrong among them, the others are not
            raise

    def _keep(self, items: list[T]) -> None:
        self.items = items + self.items
        self._flush_by(time.monotonic() + TRY_AGAIN)
