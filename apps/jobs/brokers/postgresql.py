"""PostgreSQL as the broker: queues as tables, by kombu's `pgmq` transport.

Problem. The transport expects an extension that most installations lack, and a message that is no envelope raises in
the middle of it.

Guarantee. `migrate` makes the tables and functions, once, from the SQL that the `pgmq` package brings. A message that
is no envelope becomes a dead letter. A message is as safe as the ledger: written and flushed before `send` returns.

Not guaranteed. A message is a row that is inserted, updated and deleted: a few hundred jobs a second, and autovacuum
must keep up. Priorities, Celery's events and remote control are not there.
"""

from collections.abc import Iterable, Iterator
from json import dumps, loads
from typing import Any

import psycopg
from celery import current_app
from kombu.transport import pgmq as kombu_pgmq
from pgmq.install import install_pgmq_from_sql

from apps.jobs.brokers.memory import SETTLED
from apps.jobs.envelope import readable

# Any number, as long as nobody else takes it: two `migrate` at once must not both install.
INSTALLING = 7_460_112


class Channel(kombu_pgmq.Channel):
    def _pgmq_message_to_python(self, message: Any, queue: str) -> Any:
        message.message = loads(readable(dumps(message.message)))
        return super()._pgmq_message_to_python(message, queue)


class Transport(kombu_pgmq.Transport):
    Channel = Channel


class PostgreSQLMemory:
    """Nothing to remember: the queues' tables are as durable as the ledger's."""

    settled = SETTLED

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def remembers(self, database: str) -> bool:
        return True

    def remember(self, database: str) -> None: ...

    def empty(self, queues: Iterable[str]) -> list[str]:
        """A message that a worker holds is a row as well, so the count is exact."""
        there = {queue.queue_name for queue in self.channel.pgmq.list_queues()}
        return [name for name in queues if name not in there or self.channel._size(name) == 0]

    def wipe(self, queues: Iterable[str], database: str) -> int:
        return sum(self.channel.queue_purge(queue) for queue in queues)

    def given_up(self) -> Iterator[Any]:
        return iter(())


def install(**_: Any) -> None:
    """Make pgmq's schema, where the broker is PostgreSQL and has none. A receiver of Django's `post_migrate`."""
    with current_app.connection_for_write() as broker:
        if broker.transport.driver_type == "pgmq":
            _install_in(broker)


def _install_in(broker: Any) -> None:
    with psycopg.connect(broker.transport_options["conn_string"]) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [INSTALLING])
        row = connection.execute("SELECT to_regclass('pgmq.meta')").fetchone()
        if row == (None,):
            install_pgmq_from_sql(conn=connection)
