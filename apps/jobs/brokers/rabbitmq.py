"""RabbitMQ: quorum queues that survive, confirms that do not wait for ever, and a queue of what it gave up on.

Problem. A publish that is not confirmed may be lost; one that waits for a frozen broker's confirmation waits for ever.
A message over its delivery limit leaves its queue, and without a person who looks there it is as good as lost.

Guarantee. A publish is confirmed within seconds, or raises; one that is too large raises before it is sent. The relay
finds what the broker gave up on.

Not guaranteed. RabbitMQ does not say how many messages of a queue are unacknowledged. "Empty" is certain only while
nobody consumes; beside a living worker a lost message is found by its age. A worker's events are not confirmed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from amqp.exceptions import MessageNacked, NotFound
from celery.events.event import EVENT_EXCHANGE_NAME
from kombu import Connection, Queue
from kombu.transport import pyamqp

from apps.jobs.brokers.memory import SETTLED
from apps.jobs.brokers.refusal import MessageRefused, NoRoom, check_size
from config.broker import GIVEN_UP

# A confirmed write to a majority's disks takes milliseconds (seconds).
CONFIRM_WITHIN = 5
# Its default of `max_message_size` (bytes of the body), before version 4 and since. It closes the channel over a larger
# one, and with it ends the batch. It does not tell its limit, so a server that was told to take more is not asked to.
LARGEST_IN_3 = 128 * 1024 * 1024
LARGEST = 16 * 1024 * 1024
# Of a frame that holds the headers, what is not headers (bytes). They have to fit into one; RabbitMQ closes the
# connection over a larger frame, and with it ends the batch.
FRAME = 20
# Every look renews the mark; one of a database that no longer runs goes away by itself (milliseconds).
MARK_EXPIRES = 7 * 24 * 3600 * 1000


class QueueRefuses(NoRoom, MessageNacked):
    """Still what kombu knows: a broker-only `.delay()` is tried again for a moment."""


class Channel(pyamqp.Channel):
    def basic_publish_confirm(self, msg: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises `MessageRefused` and `NoRoom`. Without a connection it raises what shows that this is why."""
        if self.connection is not None:
            self._check(msg)
        # A worker sends its events from its main loop, and kombu tries its heartbeats again without end: it would stand
        # still, and renew no lease, for as long as its broker is frozen. On a channel that confirms, the event's
        # confirmation comes all the same, and would be taken for the next message's.
        if kwargs.get("exchange") == EVENT_EXCHANGE_NAME and not self._confirm_selected:
            return self._basic_publish(msg, *args, **kwargs)
        if kwargs.get("confirm_timeout") is None:
            kwargs["confirm_timeout"] = CONFIRM_WITHIN
        try:
            return super().basic_publish_confirm(msg, *args, **kwargs)
        except TimeoutError:
            # The confirmation may come later, and would be taken for the next message's. And without a farewell, for
            # the answer to which a broker that is frozen would be waited for without end.
            if self.connection is not None:
                self.connection.collect()
            raise
        except MessageNacked as exc:
            raise QueueRefuses("The queue refuses messages for now.") from exc

    def _check(self, msg: Any) -> None:
        if len(msg.body) > LARGEST:
            check_size(len(msg.body), self._largest())
        try:
            properties = msg._serialize_properties()
        except Exception as exc:  # struct's, for a number or a name that AMQP has no room for, and py-amqp's own
            raise MessageRefused(f"The headers cannot be sent: {exc}") from exc
        check_size(len(properties), self.connection.frame_max - FRAME, "The headers have")

    def _largest(self) -> int:
        return LARGEST_IN_3 if is_version_3(self.connection.server_properties) else LARGEST


class BrokerConnection(pyamqp.Connection):
    Channel = Channel


# py-amqp counts it among neither. For who publishes without the relay, and without trying again as kombu does: with
# `task_publish_retry` off, beat would exit over a broker-only task whose queue takes it later.
CHANNEL_ERRORS: Any = (*pyamqp.Transport.channel_errors, MessageNacked)


class Transport(pyamqp.Transport):
    Connection = BrokerConnection
    channel_errors = CHANNEL_ERRORS


class SSLTransport(pyamqp.SSLTransport):
    """The certificate must be the host's: by default py-amqp takes anybody's that a known authority has signed."""

    Connection = BrokerConnection
    channel_errors = CHANNEL_ERRORS
    client: Any

    def establish_connection(self) -> Any:
        given = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        options = {name.removeprefix("ssl_"): value for name, value in given.items()}
        options.pop("check_hostname", None)
        # kombu makes 127.0.0.1 of it, when it has connected once.
        host = "localhost" if self.client.hostname in (None, "127.0.0.1") else self.client.hostname
        self.client.ssl = {**options, "server_hostname": host}
        return super().establish_connection()  # type: ignore[no-untyped-call]


class RabbitMQMemory:
    settled = SETTLED

    def __init__(self, broker: Connection) -> None:
        self.broker = broker

    def remembers(self, database: str) -> bool:
        """The mark is a queue of the jobs' own kind: it lasts as long as the messages do, whichever node is away."""
        return self._look(_mark(database)) is not None

    def remember(self, database: str) -> None:
        arguments = {"x-queue-type": "quorum", "x-expires": MARK_EXPIRES}
        self.broker.default_channel.queue_declare(_mark(database), durable=True, auto_delete=False, arguments=arguments)

    def empty(self, queues: Iterable[str]) -> list[str]:
        return [name for name in queues if self._is_empty(name)]

    def _is_empty(self, queue: str) -> bool:
        """A queue that is not there has lost everything. Where nobody consumes, nothing is unacknowledged."""
        found = self._look(queue)
        return found is None or (found.message_count == 0 and found.consumer_count == 0)

    def _look(self, queue: str) -> Any:
        """None if there is no such queue, for which RabbitMQ closes the channel."""
        channel = self.broker.channel()
        try:
            return channel.queue_declare(queue, passive=True)
        except NotFound:
            return None
        finally:
            channel.close()

    def wipe(self, queues: Iterable[str], database: str) -> int:
        self.broker.default_channel.queue_delete(_mark(database))
        return sum(self.broker.default_channel.queue_purge(queue) for queue in queues)

    def given_up(self) -> Iterator[Any]:
        """From a queue in the default exchange, so that there is no binding which could get lost."""
        queue = Queue(GIVEN_UP, queue_arguments=self._given_up_arguments(), channel=self.broker.default_channel)
        if self._look(GIVEN_UP) is None:  # one of an earlier version stays as it was declared
            queue.declare()
        while message := queue.get():
            yield message

    def _given_up_arguments(self) -> dict[str, Any]:
        """What cannot become a letter goes back each time. Since version 4 it would be dropped at the twentieth, unless
        told that there is no limit. Before, there was none, and -1 was no word for that."""
        properties = self.broker.default_channel.connection.server_properties
        unlimited = {} if is_version_3(properties) else {"x-delivery-limit": -1}
        return {"x-queue-type": "quorum", **unlimited}


def is_version_3(properties: Mapping[str, Any]) -> bool:
    return str(properties.get("version", "")).startswith("3.")


def _mark(database: str) -> str:
    """Not `nightshift.mark`: of that name there are classic queues, and none can be declared as what it is not."""
    return f"nightshift.quorum-mark.{hashlib.sha256(database.encode()).hexdigest()[:16]}"
