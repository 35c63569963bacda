"""PostgreSQL as the broker: queues as tables, by kombu's `pgmq` transport.

Problem. The transport expects an extension that most installations lack, and a message that is no envelope raises in
the middle of it. pgmq connects by address, name and password alone: without a look at the certificate, without
time-outs, and with the password "postgres" where none is given. And the transport blocks, for which Celery gives the
children of a worker one pipe with one lock: a child that is killed with the lock in its hands (as one is whenever
`--autoscale` shrinks) stops all the others for good.

Guarantee. The transport takes part in the worker's event loop, so that each child has a pipe of its own. `migrate`
makes the tables and functions, once, from the SQL that the `pgmq` package brings. Every connection is made by the whole
of `conn_string`. A message that is no envelope becomes a dead letter. A message is as safe as the ledger: written and
flushed before `send` returns.

Not guaranteed. A message is a row that is inserted, updated and deleted: a few hundred jobs a second, and autovacuum
must keep up. Priorities, Celery's events and remote control are not there.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from json import dumps, loads
from queue import Empty
from typing import Any

import psycopg
from celery import current_app
from kombu.transport import pgmq as kombu_pgmq
from pgmq import PGMQueue
from pgmq.install import install_pgmq_from_sql
from psycopg_pool import ConnectionPool

from apps.jobs.brokers.memory import SETTLED
from apps.jobs.envelope import count_deliveries, readable

# Any number, as long as nobody else takes it: two `migrate` at once must not both install.
INSTALLING = 7_460_112


class Channel(kombu_pgmq.Channel):
    def _pgmq_message_to_python(self, message: Any, queue: str) -> Any:
        message.message = loads(readable(dumps(message.message), queue))
        count_deliveries(message.message, before=message.read_ct - 1)
        return super()._pgmq_message_to_python(message, queue)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """If the database cannot be told, the slot is free all the same. The message comes back, to be dropped."""
        self._insist_on_a_connection()
        try:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]
        except psycopg.OperationalError:
            self.qos.ack(delivery_tag)
            raise
        finally:
            self.connection.drain_soon()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The same. What was to go back at once comes back after its visibility time-out."""
        self._insist_on_a_connection()
        try:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        except psycopg.OperationalError:
            self.qos.ack(delivery_tag)
            raise
        finally:
            self.connection.drain_soon()

    def _insist_on_a_connection(self) -> None:
        """A job may end after its channel was closed, which must look like what it is: a lost connection."""
        if self.connection is None:
            raise psycopg.InterfaceError("This channel was closed when the connection to the broker was lost.")


class Transport(kombu_pgmq.Transport):
    """In a worker's event loop it looks for messages when PostgreSQL notifies, when a slot is free, and by
    the clock.
    """

    Channel = Channel
    implements = kombu_pgmq.Transport.implements.extend(asynchronous=True)
    client: Any
    cycle: Any
    loop: Any = None
    is_to_drain = False

    def _create_pgmq_client(self) -> PGMQueue:
        """kombu's, with a pool that is made here, from the whole of `conn_string`."""
        options = self.client.transport_options
        conninfo = options["conn_string"]
        pool = ConnectionPool(
            conninfo, min_size=1, max_size=options["pool_size"], timeout=options["pool_timeout"], open=True
        )
        # Without `conn_string` it would read DATABASE_URL. No extension: `migrate` makes plain tables and functions.
        client = PGMQueue(conn_string=conninfo, pool=pool, init_extension=False)
        client._own_pool = True  # which it closes with itself
        return client

    def _get_notify_waiter(self) -> Any:
        if self._notify_waiter is None:
            self._notify_waiter = kombu_pgmq._NotifyWaiter(self.client.transport_options["conn_string"])
        return self._notify_waiter

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.loop = loop
        loop.call_repeatedly(self.polling_interval, self.drain)

    def _register_notify_queue(self, queue_name: str) -> None:
        super()._register_notify_queue(queue_name)
        if self.loop is not None:
            listening: Any = self._get_notify_waiter()._conn
            self.loop.add_reader(listening.fileno(), self.on_notification)

    def on_notification(self) -> None:
        """Raises OperationalError, for Celery to connect again, if the connection that listens is lost."""
        listening: Any = self._get_notify_waiter()._conn
        listening.pgconn.consume_input()
        while listening.pgconn.notifies():
            pass
        self.drain()

    def drain_soon(self) -> None:
        """A slot is free: messages may wait of which there was a notification before."""
        if self.loop is not None and not self.is_to_drain:
            self.is_to_drain = True
            self.loop.call_soon(self.drain)

    def drain(self) -> None:
        """Deliver until the worker has its hands full, or all its queues are empty."""
        self.is_to_drain = False
        with suppress(Empty):
            while True:
                self.cycle.get(self._deliver, timeout=0)


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
        return [name for name in queues if not self.channel._has_queue(name) or self.channel._size(name) == 0]

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
