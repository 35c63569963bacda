"""kombu's Redis transport, which loses no message to a kill, and asks for many in one round trip.

Problem. kombu pops a message and then, in another round trip, notes that it is being worked on: a worker killed in
between has lost it. It pays two such transactions for each message, and makes a new client for each. And an envelope
that it cannot read makes the worker exit.

Guarantee. A message moves from its queue to `unacked` in one step on the server (`CLAIM`), together with as many more
as the worker may have. To wait, a worker pops nothing: the server tells it that a queue has changed. Acknowledgements
leave in one pipeline, soon. Keys and format are kombu's own, so stock producers and workers mix with this.

The time-out after which a message counts as lost begins anew for as long as its worker lives, so a job may take longer.

Not guaranteed. A solo worker says nothing while it runs a job: a broker-only one that takes longer than the time-out
runs twice. With `ack_emulation` off, a key prefix, or a server that refuses Lua or client tracking (Redis before 6),
messages are fetched in kombu's own way.
"""

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import product
from queue import Empty
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from apps.jobs.envelope import count_deliveries, deliveries_before, opened, readable, sealed

logger = logging.getLogger(__name__)

# How long after a job's end its message may still count as unacknowledged. At most so much comes twice after a kill.
ACKNOWLEDGE_WITHIN = 0.02
# How long a worker that has work in hand waits between two claims, for more of its jobs to end: else each that ends is
# a claim of one. What is fetched ahead lasts longer, unless many processes run very short jobs (`apps.jobs.ahead`).
GATHER = 0.02
# How soon a worker of green threads sees that one of them is free (seconds).
LOOK_AGAIN = 0.01
# How often in the visibility time-out a worker says that it still works on what it has not acknowledged: a message may
# wait in it for its `eta`, and a body may take long.
HOLDS = 3
# For a consumer without a prefetch limit: a reply that is read in a few milliseconds.
AT_MOST = 100

# Each note is written before its message is popped: if memory is full the note is refused, and nothing may be lost.
# The last look into a queue finds nothing, and makes the server tell this client when that changes.
# What cannot be read is noted as a JSON text of its bytes, under the tag that it seems to have, else under one of ours.
CLAIM = r"""
local credit, now, queues = tonumber(ARGV[1]), ARGV[2], #ARGV - 2
local taken = {}

local function tag_of(item)
    local readable, envelope = pcall(cjson.decode, item)
    local properties = readable and type(envelope) == 'table' and envelope.properties
    local tag = type(properties) == 'table' and properties.delivery_tag
    if type(tag) == 'string' and tag ~= '' then return tag, true end
    return item:match('"delivery_tag": ?"([^"\\]+)"')
end

local function as_text(item)
    return '"' .. item:gsub('[%c"\\\128-\255]', function(byte) return string.format('\\u%04x', byte:byte()) end) .. '"'
end

local function note(item, origin)
    if origin == '' then return end
    local tag, is_read = tag_of(item)
    tag = tag or 'untagged-' .. now .. '-' .. #taken .. '-' .. redis.sha1hex(item)
    if not is_read then item = as_text(item) end
    local kept = redis.pcall('HSET', KEYS[1], tag, '[' .. item .. origin)
    if type(kept) == 'table' and kept.err then return end
    redis.call('ZADD', KEYS[2], now, tag)
    return tag
end

for first = 3, #KEYS, queues do
    repeat
        local found = false
        for queue = 1, queues do
            local key = KEYS[first + queue - 1]
            local item = #taken < credit and redis.call('LINDEX', key, -1)
            if item then
                found = true
                taken[#taken + 1] = {queue - 1, item, note(item, ARGV[2 + queue]) or ''}
                redis.call('RPOP', key)
            end
        end
    until not found
end
return taken
"""


# Stands for the server's report that a queue has changed. Which one does not matter: a claim looks at all.
REPORT = object()


class Client(redis.Redis):
    """Looks at what BRPOP brings before kombu does."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        response = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and response:
            key, item = response
            return key, readable(item, queue=key.decode().rsplit(kombu_redis.Channel.sep, 1)[0])
        return response


class QoS(kombu_redis.QoS):
    """Acknowledges many messages in one round trip, where kombu takes one for each.

    A worker that is killed in between leaves messages of jobs that have ended; the claim drops them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._settled: list[str] = []
        self._settle_by = 0.0
        self._one_at_a_time = threading.Lock()

    @property
    def credit(self) -> int:
        """How many more messages this channel may have."""
        left: int | None = self.can_consume_max_estimate()  # type: ignore[no-untyped-call]
        return AT_MOST if left is None else min(left, AT_MOST)

    @property
    def has_work(self) -> bool:
        return len(self._delivered) > len(self._dirty)

    def ack(self, delivery_tag: str) -> Any:
        """Frees the worker's slot whatever comes of it: what the broker was not told of comes back, and is dropped."""
        is_first = not self._settled
        self._settled.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        loop = self.channel.event_loop
        if loop is None or threading.current_thread() is not threading.main_thread():
            with (
                self._one_at_a_time
            ):  # a hundred green threads would need as many connections; the next takes all along
                self.acknowledge_settled()
        elif is_first:
            loop.call_later(ACKNOWLEDGE_WITHIN, self.acknowledge_settled)
            self._settle_by = time.monotonic() + ACKNOWLEDGE_WITHIN
        elif time.monotonic() > self._settle_by:  # while a batch is delivered, the loop stands still
            self.acknowledge_settled()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """As `ack`: a message that could not be put back comes back after the visibility time-out."""
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def acknowledge_settled(self) -> None:
        tags, self._settled = self._settled, []
        if tags:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()

    def hold(self) -> None:
        """Begin the visibility time-out of this channel's messages anew. Who does not say so in time is gone."""
        held = self._delivered.keys() - self._dirty
        if held:
            with suppress(redis.RedisError), self.pipe_or_acquire() as pipe:  # while the broker is away, nobody waits
                pipe.zadd(self.unacked_index_key, dict.fromkeys(held, time.time()), xx=True).execute()

    def restore_by_tag(self, tag: bytes | str, *args: Any, **kwargs: Any) -> None:
        """Of a worker that is gone. Over a note that Python cannot read this one would exit, and so would the next."""
        self.channel.restored = bytes_to_str(tag)
        try:
            super().restore_by_tag(tag, *args, **kwargs)  # type: ignore[no-untyped-call]
        except (redis.RedisError, OSError):
            raise  # not the note's fault: of a lost connection, or of a full memory
        except Exception:  # what looks like one of Celery's dates, and is none, raises anything
            logger.exception("What is noted as %s cannot be read. It stays in %s", bytes_to_str(tag), self.unacked_key)
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, tag).execute()
        finally:
            self.channel.restored = None

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """At the channel's end."""
        with suppress(redis.RedisError):  # the broker is away: these messages come back, and are dropped
            self.acknowledge_settled()
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that the message is being worked on, unless the claim has done so.

        A broker whose memory is full gives messages away and lets nobody note so, which makes Celery's worker exit with
        the message in its hands. It is worked on all the same: should this worker die, the ledger sends its job again.
        """
        if delivery_tag == self.channel.noted:
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except redis.exceptions.OutOfMemoryError:
            virtual.QoS.append(self, message, delivery_tag)


class Channel(kombu_redis.Channel):
    """Where kombu says BRPOP, in the names that it calls, this channel claims and waits.

    One connection does both. After a claim that left credit over, every queue was found empty and is watched; then
    `_in_poll` stays set, which keeps kombu from asking again, until the server reports a change.
    """

    QoS = QoS
    _shared_client: Any = None
    _in_poll: Any
    _brpop_sent_at: Any
    # The tag that the claim has noted of the message which is being delivered.
    noted: str | None = None
    # The tag by which the message is noted that goes back into its queue. If it has a dead letter, that is by this tag.
    restored: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._no_ack: set[str] = set()
        self._watching: Any = None  # the socket on which the server reports changes
        self._gathers = False
        self._claimed = 0  # the credit of the claim on its way, in whose answer are messages of `_order`
        self._order: list[str] = []
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.claims = bool(self.ack_emulation) and not self.global_keyprefix

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        (self._no_ack.add if no_ack else self._no_ack.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: Any = None) -> None:
        if not (self.claims and self._watch(self.client.connection)):
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
        elif not self._gathers_credit():
            self._claim(self.client.connection)

    def _gathers_credit(self) -> bool:
        """Whether to wait for more. kombu asks again in each turn of the loop, and a timer sees to one in time."""
        loop, since = self.event_loop, time.monotonic() - (self._brpop_sent_at or 0.0)
        if loop is None or since >= GATHER or not self.qos.has_work:
            return False
        if not self._gathers:
            self._gathers = True
            loop.call_later(GATHER - since, partial(setattr, self, "_gathers", False))
        return True

    def _watch(self, connection: Any) -> bool:
        """Have the server report changes on this connection. False, for ever, if it cannot."""
        if self._watching is connection._sock:
            return True
        try:
            for command in (("CLIENT", "TRACKING", "ON", "NOLOOP"), ("EVAL", "return 1", 0)):
                connection.send_command(*command)
                connection.read_response()
        except redis.ResponseError as exc:
            logger.warning("The broker refuses what fetching without loss needs, so it is done as kombu does: %s", exc)
            self.claims = False
            return False
        connection._parser.set_invalidation_push_handler(lambda _: REPORT)
        self._watching, self._claimed = connection._sock, 0
        return True

    def _claim(self, connection: Any) -> None:
        self._order = list(self._queue_cycle.consume(len(self.active_queues)))
        if not self._order:
            return
        lists = [
            self._q_for_pri(queue, step)  # type: ignore[no-untyped-call]
            for step, queue in product(self.priority_steps, self._order)
        ]
        keys = [self.unacked_key, self.unacked_index_key, *lists]
        self._claimed = self.qos.credit
        self._in_poll, self._brpop_sent_at = connection, time.monotonic()
        origins = map(self._origin, self._order)
        connection.send_command("EVAL", CLAIM, len(keys), *keys, self._claimed, time.time(), *origins)

    def _origin(self, queue: str) -> str:
        """The end of the note, which says where the message belongs; nothing for a queue that is not acknowledged."""
        return "" if queue in self._no_ack else f', "", {json.dumps(queue)}]'

    def _brpop_read(self, **options: Any) -> bool:
        if not self.claims:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        connection = self.client.connection
        delivered = False
        try:
            while self._claimed or (not self._closing and connection.can_read(timeout=0)):
                delivered |= self._take(connection.read_response(push_request=True))
        except self.connection_errors:
            connection.disconnect()
            raise
        except redis.ResponseError:
            self._claimed, self._in_poll = 0, None
            raise
        if not delivered:
            raise Empty
        return True

    def _take(self, answer: Any) -> bool:
        """Either a claim's answer or the report of a change. Returns whether messages were delivered."""
        if answer is REPORT:
            if not self._claimed:  # an answer on its way is newer
                self._in_poll = None
            return False
        is_full, self._claimed = len(answer) >= self._claimed, 0
        if is_full:
            self._in_poll = None
        for number, item, tag in answer:
            self._deliver(self._order[number], item, tag.decode() or None)
        return bool(answer)

    def _deliver(self, queue: str, item: bytes, tag: str | None) -> None:
        """If this raises, the broker is lost, and the rest of the batch comes back after the visibility time-out."""
        self._queue_cycle.rotate(queue)
        self.noted = tag
        try:
            self.connection._deliver(opened(item, queue, tag), queue)
        finally:
            self.noted = None

    def ask_again_if_it_is_time(self) -> None:
        """As often as kombu does: a report may get lost on its way through a proxy."""
        if self.claims and not self._claimed and time.monotonic() - (self._brpop_sent_at or 0.0) >= self.brpop_timeout:
            self._in_poll = None

    def _do_restore_message(self, payload: Any, exchange: str, routing_key: str, *args: Any, **kwargs: Any) -> None:
        """Back into its queue, from a worker that is gone or does not want it. What kombu cannot read would be lost."""
        item = payload.encode("latin-1") if isinstance(payload, str) else dumps(payload)
        envelope = opened(item, routing_key, self.restored)
        envelope["headers"] = envelope.get("headers") or {}
        count_deliveries(envelope, before=deliveries_before(envelope["headers"]) + 1)
        super()._do_restore_message(envelope, exchange, routing_key, *args, **kwargs)  # type: ignore[no-untyped-call]

    def push(self, messages: Iterable[tuple[Any, str, int | None]]) -> None:
        """Publish task messages, each with its queue and priority, in one round trip.

        kombu takes ten times as long for the steps that lead to the same LPUSH.
        """
        lists: defaultdict[str, list[str]] = defaultdict(list)
        for message, queue, priority in messages:
            lists[self._q_for_pri(queue, priority or 0)].append(  # type: ignore[no-untyped-call]
                sealed(message, queue, priority)
            )
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for key, items in lists.items():
                pipe.lpush(key, *items)
            pipe.execute()

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
        # Only in its third version does the protocol know reports that nobody asked for.
        newest = {"protocol": 3} if asynchronous else {}
        return {**super()._connparams(asynchronous), **newest}  # type: ignore[no-untyped-call]

    def _get_client(self) -> Any:
        stock = super()._get_client()  # type: ignore[no-untyped-call]
        # With a key prefix kombu uses a client of its own, which we leave alone.
        return stock if isinstance(stock, partial) else Client


class Poller(kombu_redis.MultiChannelPoller):
    hold_next = 0.0
    is_watched: Callable[[int], bool] | None = None

    @property
    def fds(self) -> dict[int, Any]:
        """What the loop must watch from now on. kombu tells the kernel in each turn of all that it watches already."""
        found: dict[int, Any] = super().fds
        return {fd: what for fd, what in found.items() if not (self.is_watched and self.is_watched(fd))}

    def hold_if_it_is_time(self) -> None:
        now = time.monotonic()
        if now < self.hold_next:
            return
        for channel in self._channels:
            channel.qos.hold()
            self.hold_next = now + channel.visibility_timeout / HOLDS

    def on_poll_start(self) -> None:
        self.hold_if_it_is_time()
        for channel in self._channels:
            channel.ask_again_if_it_is_time()
        super().on_poll_start()  # type: ignore[no-untyped-call]

    def on_readable(self, fileno: int) -> Any:
        """kombu takes something to read on a connection that has asked for nothing for its end. Here it is a report."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "BRPOP" and channel.claims and fileno not in self._paused_brpop:
            return channel.handlers[kind]()
        return super().on_readable(fileno)  # type: ignore[no-untyped-call]

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Never longer at once than kombu's BRPOP."""
        self.hold_if_it_is_time()
        at_most = kombu_redis.Transport.brpop_timeout
        timeout = at_most if timeout is None else min(timeout, at_most)
        has_room = self._wait_for_room(timeout)
        return super().get(callback, timeout if has_room else 0)  # type: ignore[no-untyped-call]

    def _wait_for_room(self, seconds: float) -> bool:
        """Whether there is room for another message, in a worker of green threads, which has no event loop.

        kombu sleeps for the whole second while every thread has a job, though each may end in a millisecond.
        """
        give_up_at = time.monotonic() + seconds
        consuming = [channel for channel in self._channels if channel.active_queues]
        while consuming and not any(channel.qos.can_consume() for channel in consuming):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(LOOK_AGAIN)
        return True


class Transport(kombu_redis.Transport):
    Channel = Channel
    event_loop: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.cycle: Any = Poller()  # type: ignore[no-untyped-call]

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        self.event_loop = loop
        self.cycle.is_watched = lambda fd: loop.readers.get(fd) == (self.on_readable, (fd,))

    # A worker that starts, or connects again, while the broker's memory is full waits instead of giving up.
    connection_errors = (*kombu_redis.Transport.connection_errors, redis.exceptions.OutOfMemoryError)
