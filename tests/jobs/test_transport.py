"""The transport's own economy; what it makes of bad envelopes is in `test_consumer.py`."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from celery import current_app
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from kombu.simple import SimpleQueue

from apps.jobs.envelope import deliveries_before
from apps.jobs.transport import Channel


def open_channel(connection: Connection) -> Any:
    """kombu carries no types."""
    channel = connection.default_channel
    assert isinstance(channel, Channel)
    return channel


def test_one_client_serves_every_command_of_a_channel(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        assert channel._create_client() is channel._create_client()


def test_what_blocks_has_a_client_of_its_own(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        assert channel._create_client(asynchronous=True) is not channel._create_client()


def test_after_its_pools_were_closed_a_channel_takes_a_client_of_the_new_pool(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        before = channel._create_client()
        channel._disconnect_pools()
        after = channel._create_client()
        assert after is not before
        assert after.connection_pool is channel.pool
        assert after.ping()


class Loop:
    """Celery's event loop, whose time passes when the test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        self.due.append(action)

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for action in due:
            action()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def channel(valkey: redis.Redis, loop: Loop) -> Iterator[Any]:
    """Of a worker with an event loop, which has fetched three messages."""
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        channel.connection.event_loop = loop
        queue = SimpleQueue(connection, "default")
        for number in range(3):
            queue.put(number)
        yield channel
        queue.close()


def fetch(channel: Any, jobs: int) -> list[str]:
    return [channel.basic_get("default").delivery_tag for _ in range(jobs)]


def test_many_messages_are_acknowledged_in_one_go(channel: Any, loop: Loop, valkey: redis.Redis) -> None:
    for tag in fetch(channel, 3):
        channel.basic_ack(tag)
    assert valkey.hlen("unacked") == 3
    assert len(loop.due) == 1
    loop.pass_time()
    assert valkey.hlen("unacked") == valkey.zcard("unacked_index") == 0


def test_a_slot_is_free_before_its_message_is_acknowledged(channel: Any) -> None:
    channel.basic_qos(0, 1)
    [tag] = fetch(channel, 1)
    assert not channel.qos.can_consume()
    channel.basic_ack(tag)
    assert channel.qos.can_consume()


def test_a_channel_that_closes_acknowledges_what_is_settled_and_hands_back_the_rest(
    channel: Any, valkey: redis.Redis
) -> None:
    settled, _ = fetch(channel, 2)
    channel.basic_ack(settled)
    channel.close()
    assert valkey.hlen("unacked") == 0
    assert valkey.llen("default") == 2


NOWHERE = {"delivery_tag": "a tag", "delivery_info": {"exchange": "", "routing_key": None}}


@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("item", [b"{}", b"not JSON", json.dumps({"body": "", "properties": NOWHERE}).encode()])
def test_what_no_worker_can_read_goes_back_into_its_queue_from_a_worker_that_is_gone(
    valkey: redis.Redis, item: bytes, claims: bool
) -> None:
    """If the next worker cannot put it back, it exits, and so does each after it."""
    valkey.rpush("work", item)
    seen: list[Any] = []
    connect = current_app.connection_for_write
    with connect() as there, connect() as gone, Consumer(gone, [Queue("work")], on_message=seen.append):
        open_channel(gone).claims = claims
        gone.drain_events(timeout=5)
        [message] = seen
        open_channel(there).qos.restore_by_tag(message.delivery_tag)
        assert (valkey.llen("work"), valkey.hlen("unacked")) == (1, 0)


def test_a_message_that_goes_back_into_its_queue_says_how_often_it_was_delivered(channel: Any) -> None:
    seen = []
    for _ in range(9):
        message = channel.basic_get("default")
        seen.append(deliveries_before(message.headers))
        channel.basic_reject(message.delivery_tag, requeue=True)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_worker_of_green_threads_fetches_as_soon_as_one_of_them_is_free(valkey: redis.Redis) -> None:
    """As it does without an event loop: one after the other, with room for one."""
    with current_app.connection_for_write() as connection:
        queue = SimpleQueue(connection, "default")
        for number in range(4):
            queue.put(number)
        ends: list[threading.Timer] = []

        def end_soon(_: Any, message: Any) -> None:
            ends.append(threading.Timer(0.05, message.ack))
            ends[-1].start()

        with Consumer(connection.channel(), [queue.queue], callbacks=[end_soon], prefetch_count=1):
            began = time.monotonic()
            while len(ends) < 4:
                connection.drain_events(timeout=10)
            took = time.monotonic() - began
            ends[-1].join()
        queue.close()
    assert took < 2, "kombu sleeps for a second before it looks again"


@pytest.fixture
def hub(valkey: redis.Redis) -> Iterator[Any]:
    """A worker's event loop, which watches the connection of a consumer."""
    hub: Any = Hub()
    with current_app.connection_for_write() as connection, Consumer(connection.channel(), [Queue("work")]) as consumer:
        connection.register_with_event_loop(hub)
        consumer.consume()
        tick(hub)
        yield hub
    hub.close()


def tick(hub: Any) -> None:
    for call in hub.on_tick:
        call()


def test_what_the_loop_watches_is_told_to_the_kernel_once(hub: Any) -> None:
    assert hub.readers
    hub.poller.register = Mock()
    tick(hub)
    hub.poller.register.assert_not_called()


def test_what_the_loop_no_longer_watches_is_watched_again(hub: Any) -> None:
    watched = dict(hub.readers)
    for descriptor in watched:
        hub.remove_reader(descriptor)
    tick(hub)
    assert hub.readers == watched


def test_what_somebody_else_watched_by_the_same_number_is_the_consumers_now(hub: Any) -> None:
    watched = dict(hub.readers)
    for descriptor in watched:
        hub.readers[descriptor] = (Mock(), (descriptor,))
    tick(hub)
    assert hub.readers == watched


def test_another_thread_acknowledges_at_once(channel: Any, loop: Loop, valkey: redis.Redis) -> None:
    [tag] = fetch(channel, 1)
    thread = threading.Thread(target=channel.basic_ack, args=[tag])
    thread.start()
    thread.join()
    assert valkey.hlen("unacked") == 0
    assert loop.due == []


def test_more_threads_than_connections_acknowledge_at_once(valkey: redis.Redis) -> None:
    """A worker of green threads: kombu has ten connections, and whoever finds none would keep its slot for ever."""
    jobs = 40
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        queue = SimpleQueue(connection, "default")
        for number in range(jobs):
            queue.put(number)
        channel.basic_qos(0, jobs)
        together = threading.Barrier(jobs)

        def acknowledge(tag: str) -> None:
            together.wait()
            channel.basic_ack(tag)

        threads = [threading.Thread(target=acknowledge, args=[tag]) for tag in fetch(channel, jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        queue.close()
        assert channel.qos.can_consume_max_estimate() == jobs
    assert valkey.hlen("unacked") == 0


@pytest.mark.parametrize("settle", [Channel.basic_ack, Channel.basic_reject])
def test_a_broker_that_does_not_answer_costs_no_slot(
    channel: Any, settle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.connection.event_loop = None
    channel.basic_qos(0, 1)
    [tag] = fetch(channel, 1)
    monkeypatch.setattr(redis.client.Pipeline, "execute", frozen)
    with pytest.raises(redis.TimeoutError):
        settle(channel, tag)
    assert channel.qos.can_consume()


def frozen(*_: Any, **__: Any) -> None:
    raise redis.TimeoutError("Timeout reading from socket")
