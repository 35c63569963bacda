"""kombu's Redis transport, which survives an envelope it cannot read.

Problem. An envelope that is not a JSON object, or that lacks what kombu looks for in it, raises inside kombu, before
any hook of Celery's: the worker exits or reconnects, and the message is lost or comes back for ever.

Guarantee. Such an item reaches the consumer as a message of the type `UNREADABLE`, with what was in the queue as its
body, and becomes a dead letter there. Keys and format are kombu's own, so stock producers and workers mix with this.
"""

import base64
import json
import threading
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

UNREADABLE = "application/x-unreadable"
# What a dead letter shows of it is for a person; the rest may be megabytes.
SHOWN = 20_000
# How long after a job's end its message may still count as unacknowledged. At most so much comes twice after a kill.
ACKNOWLEDGE_WITHIN = 0.02


class Client(redis.Redis):
    """Looks at what BRPOP brings before kombu does."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        response = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and response:
            queue, item = response
            return queue, readable(item)
        return response


class QoS(kombu_redis.QoS):
    """Acknowledges many messages in one round trip, where kombu takes one for each.

    A worker that is killed in between leaves messages of jobs that have ended; the claim drops them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._settled: list[str] = []

    def ack(self, delivery_tag: str) -> Any:
        loop = self.channel.event_loop
        if loop is None or threading.current_thread() is not threading.main_thread():
            return super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        if not self._settled:
            loop.call_later(ACKNOWLEDGE_WITHIN, self.acknowledge_settled)
        self._settled.append(delivery_tag)
        return virtual.QoS.ack(self, delivery_tag)  # frees the worker's slot at once

    def acknowledge_settled(self) -> None:
        tags, self._settled = self._settled, []
        if tags:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """At the channel's end."""
        with suppress(redis.RedisError):  # the broker is away: these messages come back, and are dropped
            self.acknowledge_settled()
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that the message is being worked on.

        A broker whose memory is full gives messages away and lets nobody note so, which makes Celery's worker exit with
        the message in its hands. It is worked on all the same: should this worker die, the ledger sends its job again.
        """
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except redis.exceptions.OutOfMemoryError:
            virtual.QoS.append(self, message, delivery_tag)


class Channel(kombu_redis.Channel):
    QoS = QoS
    _shared_client: Any = None

    @property
    def event_loop(self) -> Any:
        """Celery's, in a worker's main process. None elsewhere, and with gevent."""
        return getattr(self.connection, "event_loop", None)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """kombu makes a client for each command, which takes longer than the command. A pool needs only one."""
        if asynchronous:  # for what blocks: these have a connection to themselves
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
            self._shared_client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._shared_client

    def _connparams(self, asynchronous: bool = False) -> Any:
        """A closed channel has no address, which must look like what it is: a lost connection.

        A job that ends after the broker went away is acknowledged on the channel that its message came by. kombu then
        asks for the address of nothing, and Celery takes the AttributeError for a reason to exit.
        """
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("This channel was closed when the connection to the broker was lost.")
        return super()._connparams(asynchronous)  # type: ignore[no-untyped-call]

    def _get_client(self) -> Any:
        stock = super()._get_client()  # type: ignore[no-untyped-call]
        # With a key prefix kombu uses a client of its own, which we leave alone.
        return stock if isinstance(stock, partial) else Client


class Transport(kombu_redis.Transport):
    Channel = Channel
    event_loop: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        self.event_loop = loop

    # A worker that starts, or connects again, while the broker's memory is full waits instead of giving up.
    connection_errors = (*kombu_redis.Transport.connection_errors, redis.exceptions.OutOfMemoryError)


def readable(item: bytes | str) -> bytes | str:
    """The item itself, or an envelope around it that says what is wrong with it."""
    wrong = _what_is_wrong(item)
    return item if wrong is None else json.dumps(_envelope(item, wrong))


def _what_is_wrong(item: bytes | str) -> str | None:
    try:
        envelope = json.loads(item)
    except (ValueError, RecursionError) as exc:
        return f"The envelope is not JSON: {exc}"
    if not isinstance(envelope, dict):
        return "The envelope is not an object."
    if not isinstance(envelope.get("headers"), dict | None):
        return "The envelope's headers are not an object."
    properties = envelope.get("properties")
    if not isinstance(properties, dict) or not properties.get("delivery_tag"):
        return "The envelope has no delivery tag."
    if not isinstance(properties.get("delivery_info"), dict):
        return "The envelope does not say where it was delivered to."
    return _what_is_wrong_with_body(envelope.get("body"), properties.get("body_encoding"))


def _what_is_wrong_with_body(body: Any, encoding: Any) -> str | None:
    if not isinstance(body, str):
        return "The envelope has no body."
    if encoding not in (None, "utf-8", "base64"):
        return f"The body's encoding {encoding!r} is unknown."
    if encoding == "base64":
        try:
            base64.b64decode(body, validate=True)
        except ValueError as exc:
            return f"The body is not base64: {exc}"
    return None


def _envelope(item: bytes | str, reason: str) -> dict[str, Any]:
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else item
    return {
        "body": text[:SHOWN],
        "content-type": UNREADABLE,
        "content-encoding": "utf-8",
        "headers": {"reason": reason},
        "properties": {
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": ""},
            "delivery_mode": 2,
        },
    }
