"""What kombu promises of a Redis transport, and what it does not: nothing is lost while a message is fetched."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.pidbox import Mailbox
from kombu.transport import redis as kombu_redis

from apps.jobs import transport
from apps.jobs.envelope import SHOWN
from apps.jobs.transport import REPORT
from apps.local.waiting import wait_for
from tests.jobs.malformed import UNUSABLE, packed

STOCK = "kombu.transport.redis:Transport"
OURS = "apps.jobs.transport:Transport"
ROOT = Path(__file__).parents[2]
EVERYONE = Exchange("everyone", type="fanout")


def connect(transport: str = OURS, **options: Any) -> Connection:
    return Connection(os.environ["REDIS_URL"], transport=transport, transport_options=options)


@pytest.fixture
def ours(valkey: redis.Redis) -> Iterator[Connection]:
    with connect() as connection:
        yield connection


def publish(connection: Connection, *bodies: Any, queue: str = "a", **options: Any) -> None:
    with connection.channel() as channel:
        for body in bodies:
            Producer(channel).publish(body, exchange="", routing_key=queue, **options)


class Fetched(list[Any]):
    """The messages that came, with the channel that brought them."""

    consumer: Any

    def __init__(self, connection: Connection, channel: Any) -> None:
        self.connection = connection
        self.channel = channel

    def bodies(self) -> list[Any]:
        return [message.payload for message in self]

    def come(self, number: int) -> list[Any]:
        assert wait_for(lambda: len(self) >= number or (self._drain() and len(self) >= number), 10)
        return self.bodies()

    def no_more(self) -> None:
        before = len(self)
        while self._drain(0.3):
            pass
        assert len(self) == before

    def _drain(self, timeout: float = 0.1) -> bool:
        """Whether something came: a message, or an answer without one."""
        try:
            self.connection.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True


@contextmanager
def consuming(
    connection: Connection, *queues: str | Queue, prefetch: int = 0, no_ack: bool = False
) -> Iterator[Fetched]:
    with connection.channel() as channel:
        channel.basic_qos(0, prefetch, False)
        fetched = Fetched(connection, channel)
        known = [Queue(queue) if isinstance(queue, str) else queue for queue in queues]
        with Consumer(channel, known, on_message=fetched.append, no_ack=no_ack) as fetched.consumer:
            yield fetched


def count_claims(channel: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    take = channel._take

    def counted(answer: Any) -> Any:
        if answer is not REPORT:
            sizes.append(len(answer))
        return take(answer)

    monkeypatch.setattr(channel, "_take", counted)
    return sizes


def test_as_many_messages_as_the_credit_allows_come_in_one_answer(
    ours: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ours, *range(10))
    with consuming(ours, "a", prefetch=4) as fetched:
        sizes = count_claims(fetched.channel, monkeypatch)
        assert fetched.come(4) == [0, 1, 2, 3]
        assert sizes == [4]


def test_a_worker_with_work_in_hand_asks_once_for_what_ends_within_a_moment(
    ours: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ours, *range(4))
    with consuming(ours, "a", prefetch=3) as fetched:
        sizes = count_claims(fetched.channel, monkeypatch)
        fetched.come(3)
        monkeypatch.setattr(fetched.channel.connection, "event_loop", Mock())
        monkeypatch.setattr(transport, "GATHER", 60.0)
        fetched[0].ack()
        fetched.no_more()
        fetched[1].ack()
        fetched[2].ack()
        assert fetched.come(4) == [0, 1, 2, 3]  # no work is left in hand
        assert sizes == [3, 1]


def test_a_message_is_kept_for_as_long_as_its_worker_lives(ours: Connection, valkey: redis.Redis) -> None:
    """kombu's own time-out runs from the fetch, so what waits for its `eta`, or takes long, comes twice."""
    publish(ours, "body")
    with consuming(ours, "a") as fetched:
        fetched.come(1)
        tag = fetched[0].delivery_tag
        valkey.zadd("unacked_index", {tag: 0})  # long ago
        fetched.connection.transport.cycle.hold_next = 0.0
        fetched.no_more()
        assert valkey.zscore("unacked_index", tag) == pytest.approx(time.time(), abs=60)
        fetched[0].ack()
        fetched.channel.qos.hold()
        assert valkey.zrange("unacked_index", 0, -1) == []


def test_a_message_is_noted_before_it_is_delivered(ours: Connection, valkey: redis.Redis) -> None:
    publish(ours, "body")
    with consuming(ours, "a") as fetched:
        fetched.come(1)
        [(tag, note)] = valkey.hgetall("unacked").items()
        assert tag == fetched[0].delivery_tag.encode()
        assert json.loads(note)[1:] == ["", "a"]
        assert valkey.zscore("unacked_index", tag) == pytest.approx(time.time(), abs=60)
        fetched[0].ack()
        assert not valkey.hlen("unacked")


def test_no_more_come_than_the_prefetch_limit_until_one_is_acknowledged(ours: Connection) -> None:
    publish(ours, *range(5))
    with consuming(ours, "a", prefetch=2) as fetched:
        fetched.come(2)
        fetched.no_more()
        fetched[0].ack()
        assert fetched.come(3) == [0, 1, 2]
        fetched.no_more()


def test_a_message_that_is_published_while_the_consumer_waits_comes_at_once(ours: Connection) -> None:
    with connect() as other, consuming(ours, "a", "b", prefetch=10) as fetched:
        fetched.no_more()
        for queue in ("a", "b", "a"):
            publish(other, queue, queue=queue)
            began = time.monotonic()
            fetched.come(len(fetched) + 1)
            assert time.monotonic() - began < kombu_redis.Transport.brpop_timeout / 2
        assert fetched.bodies() == ["a", "b", "a"]


def test_queues_take_turns(ours: Connection) -> None:
    publish(ours, *["flood"] * 20, queue="a")
    publish(ours, *["other"] * 3, queue="b")
    with consuming(ours, "a", "b", prefetch=6) as fetched:
        assert sorted(fetched.come(6)) == ["flood"] * 3 + ["other"] * 3


def test_a_higher_priority_comes_first_from_every_queue(ours: Connection) -> None:
    publish(ours, "usual", queue="a", priority=9)
    publish(ours, "urgent", queue="b", priority=0)
    publish(ours, "middle", queue="a", priority=3)
    with consuming(ours, "a", "b") as fetched:
        assert fetched.come(3) == ["urgent", "middle", "usual"]


def test_a_message_that_is_rejected_with_requeue_comes_again(ours: Connection, valkey: redis.Redis) -> None:
    publish(ours, "body")
    with consuming(ours, "a", prefetch=1) as fetched:
        fetched.come(1)
        fetched[0].reject(requeue=True)
        fetched.come(2)
        assert fetched[1].headers["redelivered"]
        fetched[1].reject()
        fetched.no_more()
    assert not valkey.hlen("unacked")
    assert not valkey.llen("a")


def test_what_was_not_acknowledged_is_restored_at_shutdown(ours: Connection, valkey: redis.Redis) -> None:
    publish(ours, 1, 2, 3)
    with consuming(ours, "a") as fetched:
        fetched.come(3)
        fetched[1].ack()
    assert valkey.llen("a") == 2
    assert not valkey.hlen("unacked")


def test_an_answer_that_is_on_its_way_at_shutdown_goes_back_to_the_queue(ours: Connection, valkey: redis.Redis) -> None:
    with consuming(ours, "a", prefetch=2) as fetched:
        fetched.no_more()
        publish(ours, 1, 2)
        fetched.channel._brpop_start()
        assert wait_for(lambda: valkey.hlen("unacked") == 2, 10)
    assert fetched == []
    assert valkey.llen("a") == 2
    assert not valkey.hlen("unacked")


@pytest.mark.parametrize("restorer", [OURS, STOCK])
def test_what_a_lost_worker_had_is_redelivered_after_the_visibility_time_out(
    valkey: redis.Redis, restorer: str
) -> None:
    with connect() as lost, consuming(lost, "a") as fetched:
        publish(lost, "body")
        fetched.come(1)
        impatient = connect(restorer, visibility_timeout=0, unacked_restore_throttle=1)
        with impatient as other, consuming(other, "a") as again:
            assert again.come(1) == ["body"]
            assert again[0].headers["redelivered"]
            again[0].ack()
    assert not valkey.llen("a")


def test_stock_producers_and_consumers_mix_with_ours(valkey: redis.Redis) -> None:
    with connect(STOCK) as stock, connect() as ours:
        publish(stock, "from stock", queue="a")
        publish(ours, "from us", queue="b")
        with consuming(ours, "a") as by_us, consuming(stock, "b") as by_stock:
            assert by_us.come(1) == ["from stock"]
            assert by_stock.come(1) == ["from us"]


def test_everyone_gets_what_is_broadcast(valkey: redis.Redis) -> None:
    with (
        connect() as first,
        connect() as second,
        connect(STOCK) as third,
        consuming(first, Queue("x", EVERYONE)) as one,
        consuming(second, Queue("y", EVERYONE)) as two,
    ):
        one.no_more()
        two.no_more()
        Producer(third.default_channel, exchange=EVERYONE).publish("news")
        assert one.come(1) == two.come(1) == ["news"]


def test_a_worker_is_asked_and_answers_by_remote_control(valkey: redis.Redis) -> None:
    mailbox = Mailbox("tests", type="fanout")
    with connect() as asked, connect(STOCK) as asking, consuming(asked, "a") as fetched:
        publish(asked, "work")
        node = mailbox(asked).Node("worker@tests", handlers={"ping": lambda _: "pong"}, channel=fetched.channel)
        node.listen()
        fetched.come(1)
        fetched.no_more()
        answers: list[Any] = []
        caller = threading.Thread(target=lambda: answers.extend(mailbox(asking).call(["worker@tests"], "ping")))
        caller.start()
        assert wait_for(lambda: not fetched._drain() and not caller.is_alive(), 10)
    assert answers == [{"worker@tests": "pong"}]


def test_an_answer_that_comes_after_its_consumer_was_cancelled_goes_back_to_the_queue(
    ours: Connection, valkey: redis.Redis
) -> None:
    with consuming(ours, "a", "b", prefetch=2) as fetched:
        fetched.no_more()
        publish(ours, 1, 2)
        fetched.channel._brpop_start()
        assert wait_for(lambda: valkey.hlen("unacked") == 2, 10)
        fetched.consumer.cancel_by_queue("a")
        fetched.no_more()
        assert (valkey.llen("a"), valkey.hlen("unacked")) == (2, 0)
        publish(ours, "still here", queue="b")
        assert fetched.come(1) == ["still here"]


def test_what_is_restored_comes_before_what_waits(ours: Connection) -> None:
    publish(ours, 1, 2, 3)
    with consuming(ours, "a", prefetch=2) as fetched:
        fetched.come(2)
    with consuming(ours, "a") as again:
        assert sorted(again.come(3)[:2]) == [1, 2]


def test_a_queue_without_acknowledgements_leaves_no_notes(ours: Connection, valkey: redis.Redis) -> None:
    publish(ours, "body")
    with consuming(ours, "a", no_ack=True) as fetched:
        fetched.come(1)
    assert not valkey.hlen("unacked")
    assert not valkey.llen("a")


def test_an_item_without_a_tag_is_delivered_and_noted_like_any_other(ours: Connection, valkey: redis.Redis) -> None:
    valkey.lpush("a", b"\xff garbage", json.dumps({"properties": {}}))
    with consuming(ours, "a") as fetched:
        fetched.connection.drain_events(timeout=10)
        assert [message.content_type for message in fetched] == ["application/x-unreadable"] * 2
        assert valkey.hlen("unacked") == 2
        for message in fetched:
            message.ack()
    assert not valkey.hlen("unacked")


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_nobody_can_read_is_not_lost_with_a_worker_that_was_killed_over_it(valkey: redis.Redis, kind: str) -> None:
    valkey.lpush("a", UNUSABLE[kind])
    with connect() as lost, consuming(lost, "a") as never:
        never.channel._deliver = lambda *_: None  # killed between the claim's answer and the first message
        assert wait_for(lambda: never._drain() and not valkey.llen("a"), 10)
        noted = valkey.hkeys("unacked")
        impatient = connect(visibility_timeout=0, unacked_restore_throttle=1)
        with impatient as other, consuming(other, "a") as again:
            again.consumer.on_decode_error = lambda message, _: again.append(message)
            assert wait_for(lambda: again._drain() and bool(again), 10)
            [message] = again
            if message.content_type == "application/x-unreadable":
                assert message.body.decode() == UNUSABLE[kind].decode("utf-8", "replace")[:SHOWN]
            assert noted == [message.delivery_tag.encode()]  # by which it has one letter, if its worker wrote that
            message.ack()
            again.channel.qos.acknowledge_settled()
            assert not valkey.hlen("unacked")
            assert not valkey.zcard("unacked_index")


@pytest.mark.parametrize("tag", [5, None, ["tag"], ""])
def test_a_tag_that_is_none_is_replaced(ours: Connection, valkey: redis.Redis, tag: Any) -> None:
    valkey.lpush("a", packed(properties={"delivery_tag": tag}))
    with consuming(ours, "a") as fetched:
        [message] = fetched.come(1) and fetched
        assert valkey.hkeys("unacked") == [message.delivery_tag.encode()]


def test_a_note_that_cannot_be_read_does_not_stop_the_workers_that_find_it(
    ours: Connection, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a number with so many digits Lua makes one, and Python refuses to."""
    valkey.hset("unacked", "odd", f'[{{"number": {"9" * 5_000}}}, "", "a"]')
    valkey.zadd("unacked_index", {"odd": 1.0})
    with ours.channel() as channel:
        channel.qos.restore_visible()
    assert "What is noted as odd cannot be read" in caplog.text
    assert (valkey.hlen("unacked"), valkey.zcard("unacked_index")) == (1, 0)


def test_what_cannot_be_put_back_while_memory_is_full_is_put_back_later(ours: Connection, valkey: redis.Redis) -> None:
    with connect() as lost, consuming(lost, "a") as fetched:
        publish(lost, "body")
        fetched.come(1)
        [tag] = valkey.hkeys("unacked")
        with ours.channel() as channel:
            valkey.config_set("maxmemory", "1")
            try:
                with pytest.raises(redis.exceptions.OutOfMemoryError):
                    channel.qos.restore_by_tag(tag)
            finally:
                valkey.config_set("maxmemory", "0")
            assert valkey.zcard("unacked_index") == 1
            channel.qos.restore_by_tag(tag)
    assert valkey.llen("a") == 1


def test_messages_still_come_when_the_brokers_memory_is_full(ours: Connection, valkey: redis.Redis) -> None:
    publish(ours, 1, 2)
    valkey.config_set("maxmemory", "1")
    try:
        with consuming(ours, "a") as fetched:
            assert fetched.come(2) == [1, 2]
            assert not valkey.llen("a")
            for message in fetched:
                message.ack()
    finally:
        valkey.config_set("maxmemory", "0")


def test_from_a_server_that_refuses_messages_are_fetched_as_kombu_does(
    ours: Connection, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.acl_setuser(
        "meek", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-client|tracking"]
    )
    publish(ours, 1, 2)
    try:
        with Connection(meek_url(), transport=OURS) as connection, consuming(connection, "a") as fetched:
            assert fetched.come(2) == [1, 2]
    finally:
        valkey.acl_deluser("meek")
    assert "so it is done as kombu does" in caplog.text


def meek_url() -> str:
    address = urlsplit(os.environ["REDIS_URL"])
    return f"redis://meek:any@{address.hostname}:{address.port}{address.path}"


def test_a_connection_that_was_cut_is_made_again(ours: Connection, valkey: redis.Redis) -> None:
    with connect() as other, consuming(ours, "a") as fetched:
        fetched.no_more()
        valkey.client_kill_filter(_type="normal", skipme=True)
        publish(other, "body")
        with pytest.raises(ours.connection_errors):
            fetched.come(1)
        assert fetched.come(1) == ["body"]


@pytest.mark.parametrize(("transport", "left"), [(OURS, 1), (STOCK, 0)])
def test_a_message_that_meets_a_worker_which_is_frozen_and_killed_is_only_lost_by_kombus_own_transport(
    valkey: redis.Redis, transport: str, left: int
) -> None:
    with fetcher(transport) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGSTOP)
        with connect() as connection:
            publish(connection, "body", queue="a")
        assert wait_for(lambda: valkey.llen("a") == left, 10)
        process.kill()
        process.wait()
    assert valkey.llen("a") + valkey.hlen("unacked") == left


@contextmanager
def fetcher(transport: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.jobs.fetcher", os.environ["REDIS_URL"], transport]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_workers_that_are_killed_at_random_moments_lose_nothing(valkey: redis.Redis) -> None:
    """The chaos run does so with whole workers, and more often."""
    wanted = {str(number) for number in range(300)}
    with connect() as connection:
        publish(connection, *wanted)
    for _ in range(4):
        with fetcher(OURS) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()
    members: Any = valkey.smembers("done")
    done = {member.decode() for member in members}
    with connect(visibility_timeout=0, unacked_restore_throttle=1) as connection, consuming(connection, "a") as left:
        done |= set(left.come(valkey.llen("a") + valkey.hlen("unacked")))
    assert done == wanted
