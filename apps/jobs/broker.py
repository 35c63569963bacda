"""What the broker has lost, found out by looking at the broker.

Three rules, each enough by itself. A needless second message is dropped by the claim, so all of them may be wrong on
the safe side.

1. The broker is not the one it was. A mark in its own memory names its process; a wiped, replaced or restarted broker
   has no mark or another's, and every job that was sent before is sent again. The mark names the run of PostgreSQL too,
   which after a crash may have forgotten the last claims, whose messages are gone.
2. The queue is empty and nothing is unacknowledged, but the ledger has jobs that were sent a while ago.
3. A job was sent longer than `JOBS_SENT_TIMEOUT` ago.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from django.conf import settings
from django.db import connection

from apps.jobs import rescue

logger = logging.getLogger(__name__)

MARK = "nightshift:broker"
# A message is on its way for milliseconds; a busy machine makes that a second or two.
SETTLED = timedelta(seconds=5)


class BrokerWatch:
    def __init__(self, app: Celery) -> None:
        self.app = app

    def resend_lost(self) -> int:
        """Jobs that were sent again. Raises the broker's own error while it is away."""
        now, database = database_clock()
        lost = rescue.resend(before=now - settings.JOBS_SENT_TIMEOUT)
        with self.app.connection_for_write() as broker:
            client = getattr(broker.default_channel, "client", None)
            if client is not None and hasattr(client, "hlen"):
                lost += self._resend_if_changed(client, now, database)
                lost += self._resend_if_empty(broker.default_channel, now)
        return lost

    def _resend_if_changed(self, client: Any, now: datetime, database: str) -> int:
        runs = f"{client.info('server')['run_id']} {database}"
        mark = client.get(MARK)
        if mark is not None and _text(mark) == runs:
            return 0
        lost = rescue.resend(before=now)
        client.set(MARK, runs)
        if mark is not None or lost:
            logger.warning("The broker was wiped, or one of the servers was restarted")
        return lost

    def _resend_if_empty(self, channel: Any, now: datetime) -> int:
        if channel.client.hlen(channel.unacked_key):
            return 0
        empty = [name for name in settings.JOBS_QUEUES if channel._size(name) == 0]
        return rescue.resend(before=now - SETTLED, queues=empty)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def database_clock() -> tuple[datetime, str]:
    """Now, by the clock that `sent_at` is written by, and since when this run of PostgreSQL is up."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp(), pg_postmaster_start_time()::text")
        now, up_since = cursor.fetchone()
    return now, up_since
