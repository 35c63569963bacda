"""What the broker has lost, found out by looking at the broker.

Three rules, each enough by itself. A needless second message is dropped by the claim, so all of them may be wrong on
the safe side. What each kind of broker can tell stands in `apps.jobs.brokers`.

1. The broker is not the one it was. A mark in its own memory names it; a wiped or replaced broker has no mark or
   another's, and every job that was sent before is sent again. The mark names the run of PostgreSQL too, which after a
   crash may have forgotten the last claims, whose messages are gone.
2. The queue is empty and nothing is unacknowledged, but the ledger has jobs that were sent a while ago.
3. A job was sent longer than `JOBS_SENT_TIMEOUT` ago.

Guarantee. A job whose message is gone is sent again, at the latest by the third rule.

Not guaranteed. A broker-only job that the broker lost: nobody else knows of it.
"""

import logging
from datetime import datetime
from typing import Any

from celery import Celery
from django.conf import settings
from django.db import connection

from apps.jobs import connections, dead_letters, rescue
from apps.jobs.brokers.memory import Memory
from apps.jobs.failures import Failure

logger = logging.getLogger(__name__)


# Now, by the clock that `sent_at` is written by, and which run of PostgreSQL this is. When one of its processes is
# killed, it starts all of them anew and forgets like after a crash, and only the time of its own start stays what it
# was. Its statistics are forgotten, too, and it notes when.
CLOCK = "SELECT clock_timestamp(), concat_ws(' ', pg_postmaster_start_time(), stats_reset) FROM pg_stat_bgwriter"


class BrokerWatch:
    def __init__(self, app: Celery) -> None:
        self.app = app

    def resend_lost(self) -> int:
        """Jobs that were sent again. Raises the broker's own error while it is away."""
        now, database = database_clock()
        lost = rescue.resend(before=now - settings.JOBS_SENT_TIMEOUT)
        with self.app.connection_for_write() as broker:
            memory = memory_of(broker)
            lost += _resend_if_changed(memory, now, database)
            lost += rescue.resend(before=now - memory.settled, queues=memory.empty(settings.JOBS_QUEUES))
            _bury_given_up(memory)
        return lost


def memory_of(broker: Any) -> Memory:
    """Only the broker in use is imported: the others' clients take a second to load."""
    match broker.transport.driver_type:
        case "redis":
            from apps.jobs.brokers.redis import RedisMemory

            return RedisMemory(broker.default_channel)
        case "amqp":
            from apps.jobs.brokers.rabbitmq import RabbitMQMemory

            return RabbitMQMemory(broker)
        case "sqs":
            from apps.jobs.brokers.sqs import SQSMemory

            return SQSMemory(broker.default_channel, settings.JOBS_QUEUES)
        case "pgmq":
            from apps.jobs.brokers.postgresql import PostgreSQLMemory

            return PostgreSQLMemory(broker.default_channel)
        case kind:
            raise LookupError(f"Nightshift cannot tell what a broker of the kind {kind!r} has lost.")


def wipe(app: Celery) -> int:
    """Lose every message and every memory of the broker, on purpose. Returns how many things that were."""
    _, database = database_clock()
    with app.connection_for_write() as broker:
        return memory_of(broker).wipe(settings.JOBS_QUEUES, database)


def _resend_if_changed(memory: Memory, now: datetime, database: str) -> int:
    if memory.remembers(database):
        return 0
    lost = rescue.resend(before=now)
    memory.remember(database)
    if lost:
        logger.warning("The broker was wiped, or one of the servers was restarted")
    return lost


def _bury_given_up(memory: Memory) -> None:
    """Dead letters of what the broker gave up on. What belongs to the ledger needs none: it is sent again, and counted
    there. One of which no letter can be written stays with the broker, and does not stop the others.
    """
    for message in memory.given_up():
        try:
            if not (message.headers or {}).get("ledger"):
                dead_letters.write_for_message(message, Failure.delivered_too_often())
                logger.warning("The broker gave up on a message; it is a dead letter now")
        except Exception as exc:
            if connections.is_lost(exc):
                raise
            logger.exception("The broker gave up on a message, and its dead letter cannot be written")
        else:
            message.ack()


def database_clock() -> tuple[datetime, str]:
    """Now, and the name of this run of PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute(CLOCK)
        now, run = cursor.fetchone()
    return now, run
