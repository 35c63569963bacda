"""SQS without Celery: what is sent once, kept while it is handled, and never lost, not even by a consumer that dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from celery import current_app
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from pytest_django import Settings

from apps.catalog import changes
from apps.catalog.models import Product, SupplierChange
from apps.jobs import dead_letters
from apps.jobs.failures import Failure
from apps.jobs.models import DeadLetter
from apps.jobs.sqs import MAX_BODY, NoDeadLetterQueue, Queue, QueueUnavailable, _client, enqueue
from apps.jobs.sqs_consumer import SqsConsumer
from apps.jobs.work import Work
from apps.local.children import spawn
from apps.local.waiting import wait_for
from tasks.messages import send_sqs_message
from tests.jobs.sqs_reader import VISIBILITY
from tests.nobody import NOBODY
from tests.sqs import make_queue, waiting

pytestmark = pytest.mark.django_db

# The machine may be doing many other things; a test goes on as soon as its condition holds.
PATIENCE = 60.0


class Broken(Exception):
    """The handler does not like this message today."""


class Handler:
    """Notes what it is told; raises for what it shall not like."""

    def __init__(self, *dislikes: str) -> None:
        self.told: list[Any] = []
        self.dislikes = dislikes

    def __call__(self, told: Any) -> None:
        self.told.append(told)
        if told in self.dislikes:
            raise Broken(told)


def consumer_of(queue: Queue, handler: Callable[[Any], None]) -> SqsConsumer:
    return SqsConsumer(queue.name, handler, visibility=VISIBILITY, wait=0)


def eventually(condition: Callable[[], Any]) -> None:
    assert wait_for(lambda: bool(condition()), PATIENCE, every=0.05), f"not within {PATIENCE:.0f} s"


# --- Sending ----------------------------------------------------------------------------------------------------------


def test_a_send_that_is_repeated_is_one_message(sqs: str) -> None:
    queue = make_queue("orders.fifo")
    for _ in range(2):
        enqueue("orders.fifo", {"order": 1}, group="order-1", deduplication_id="order-1-paid")
    enqueue("orders.fifo", {"order": 1}, group="order-1", deduplication_id="order-1-sent")
    assert waiting(queue) == 2


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_message_that_amazon_could_not_delete_is_said_to_be_there(
    sqs: str, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    queue = make_queue("orders")
    enqueue("orders", 1)
    [message] = queue.receive(1, 0, VISIBILITY)
    failed = {"Id": message.id, "Code": "InternalError", "SenderFault": is_ours}
    monkeypatch.setattr(_client(), "delete_message_batch", lambda **_: {"Failed": [failed]})
    with nullcontext() if is_ours else pytest.raises(QueueUnavailable, match="InternalError"):
        queue.delete(message)


def test_an_error_of_the_database_that_is_the_messages_own_ends_in_a_letter(sqs: str) -> None:
    queue = make_queue("orders", max_receives=1)
    enqueue("orders", 1)
    consumer_of(queue, Mock(side_effect=OperationalError("canceling statement due to lock timeout"))).run_once()
    assert DeadLetter.objects.get().exception == "OperationalError"
    assert waiting(queue) == 0


def test_a_message_in_whose_turn_the_database_is_lost_comes_back(sqs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = make_queue("orders", max_receives=1)
    enqueue("orders", 1)
    consumer = consumer_of(queue, Mock(side_effect=OperationalError("server closed the connection")))
    monkeypatch.setattr(connection, "is_usable", lambda: False)
    with pytest.raises(OperationalError):
        consumer.run_once()
    assert not DeadLetter.objects.exists()
    assert waiting(queue) == 1


def test_a_message_is_kept_although_it_could_not_be_once(sqs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_queue("orders")
    enqueue("orders", 1)
    kept = threading.Event()
    consumer = SqsConsumer("orders", Mock(side_effect=lambda _: kept.wait(PATIENCE)), visibility=1, wait=0)
    keep, errors = consumer.queue.keep, iter([ValueError("The security token has expired.")])

    def keep_but_once(*args: Any) -> set[str]:
        for error in errors:
            raise error
        kept.set()
        return keep(*args)

    monkeypatch.setattr(consumer.queue, "keep", keep_but_once)
    consumer.run_once()
    assert kept.is_set()


def test_a_fifo_message_that_says_not_what_it_is_about_is_refused(sqs: str) -> None:
    make_queue("orders.fifo")
    with pytest.raises(ValueError, match="FIFO"):
        enqueue("orders.fifo", {"order": 1}, group="order-1")


def test_a_body_that_is_too_large_or_no_json_is_refused(sqs: str) -> None:
    make_queue("orders")
    with pytest.raises(ValueError, match="bytes"):
        enqueue("orders", "x" * MAX_BODY)
    with pytest.raises(TypeError):
        enqueue("orders", object())


def test_an_sqs_that_is_away_says_so(sqs: str, settings: Settings) -> None:
    settings.AWS_ENDPOINT_URL = f"http://{NOBODY}"
    with pytest.raises(QueueUnavailable):
        enqueue("orders", {})


# --- Handling ---------------------------------------------------------------------------------------------------------


def test_a_message_is_deleted_when_its_handler_has_returned_and_not_before(sqs: str) -> None:
    queue = make_queue("orders")
    enqueue("orders", {"order": 1})
    seen: list[int] = []
    consumer = consumer_of(queue, lambda _: seen.append(waiting(queue)))
    assert consumer.run_once() == 1
    assert (seen, waiting(queue)) == ([1], 0)


def test_a_failed_message_comes_back_and_others_go_on(sqs: str) -> None:
    queue = make_queue("orders")
    for name in ("bad", "good"):
        enqueue("orders", name)
    handler = Handler("bad")
    consumer = consumer_of(queue, handler)
    consumer.run_once()
    assert (sorted(handler.told), waiting(queue)) == (["bad", "good"], 1)
    handler.dislikes = ()
    eventually(consumer.run_once)
    assert (handler.told[-1], waiting(queue)) == ("bad", 0)


def test_nothing_overtakes_a_failed_message_of_its_own_group(sqs: str) -> None:
    queue = make_queue("orders.fifo")
    for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        enqueue("orders.fifo", name, group=group, deduplication_id=name)
    handler = Handler("a1")
    consumer = consumer_of(queue, handler)
    consumer.run_once()
    assert handler.told == ["a1", "b1"]
    handler.dislikes = ()
    eventually(lambda: consumer.run_once() and len(handler.told) == 4)
    assert (handler.told[2:], waiting(queue)) == (["a1", "a2"], 0)


def test_a_message_that_always_fails_is_one_letter_and_its_replay_sends_it_again(sqs: str) -> None:
    queue = make_queue("orders.fifo", max_receives=1)
    enqueue("orders.fifo", "bad", group="order-1", deduplication_id="once")
    consumer = consumer_of(queue, Handler("bad"))
    consumer.run_once()
    [letter] = DeadLetter.objects.all()
    assert (letter.kind, letter.exception, letter.queue, letter.attempts) == ("exhausted", "Broken", "orders.fifo", 1)
    assert waiting(queue) == 0

    dead_letters.replay(letter.pk)
    Work(current_app, ["io"]).run_once()
    handler = Handler()
    consumer_of(queue, handler).run_once()
    assert handler.told == ["bad"], "a replay within five minutes is no duplicate"


@pytest.mark.parametrize("body", ["{not json", '{"sku": 1}', "[" * 100_000])
def test_a_body_that_nobody_can_use_is_a_letter_at_once(sqs: str, body: str) -> None:
    queue = make_queue("supplier-changes.fifo")
    queue.send(body, "sku-1", "once")
    consumer = consumer_of(queue, changes.hear)
    consumer.run_once()
    letter = DeadLetter.objects.get()
    assert letter.kind == ("permanent" if body.startswith('{"') else "undecodable")
    assert (letter.kwargs["body"], waiting(queue)) == (body, 0)


def test_what_kills_its_consumer_is_collected_from_the_dead_letter_queue_once(sqs: str) -> None:
    queue = make_queue("orders", max_receives=1)
    enqueue("orders", "deadly")
    assert queue.receive(1, 0, 0)  # and then the consumer died
    consumer = consumer_of(queue, Handler())
    eventually(lambda: not consumer.run_once() and waiting(consumer.redrive.queue))
    [message] = consumer.redrive.queue.receive(1, 0, 0)
    for _ in range(2):
        consumer._write_letter(message, Failure.worker_lost())
    consumer.collect_dead_letters()
    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.kwargs["body"]) == ("crashed", '"deadly"')
    assert waiting(consumer.redrive.queue) == 0


def test_a_message_whose_hold_was_lost_is_neither_deleted_nor_buried(sqs: str) -> None:
    queue = make_queue("orders", max_receives=1)
    enqueue("orders", "frozen for too long")

    def freeze(told: Any) -> None:
        consumer.held._until.clear()
        raise Broken(told)

    consumer = consumer_of(queue, freeze)
    consumer.run_once()
    assert (waiting(queue), DeadLetter.objects.count()) == (1, 0)


def test_a_queue_without_a_dead_letter_queue_is_refused(sqs: str) -> None:
    make_queue("supplier-changes.fifo", max_receives=None)
    with pytest.raises(CommandError, match="dead-letter queue"):
        call_command("sqs_consume", "supplier-changes.fifo")
    with pytest.raises(NoDeadLetterQueue):
        SqsConsumer("supplier-changes.fifo", Handler())


# --- The shop's use of it ---------------------------------------------------------------------------------------------


def test_a_change_that_the_supplier_tells_twice_is_one_change(sqs: str) -> None:
    queue = make_queue("supplier-changes.fifo")
    fields = {"name": "Lamp", "price_minor": 1250, "currency": "eur", "stock": 7, "active": True}
    for wish in ("first", "told again"):
        change = {"sku": "NS-1", "version": 1, "fields": fields}
        enqueue(queue.name, change, group="NS-1", deduplication_id=wish)
    consumer_of(queue, changes.hear).run_once()
    assert (Product.objects.get(sku="NS-1").stock, SupplierChange.objects.count(), waiting(queue)) == (7, 1, 0)


def test_a_message_is_sent_if_the_transaction_commits(sqs: str) -> None:
    queue = make_queue("orders.fifo")
    send_sqs_message.delay(queue="orders.fifo", body='"hello"', group="order-1")
    assert waiting(queue) == 0
    Work(current_app, ["io"]).run_once()
    assert waiting(queue) == 1


# --- Real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def start_reader(
    transactional_db: None, sqs: str, servers: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    base, _, _ = servers["DATABASE_URL"].rpartition("/")
    own = {"DATABASE_URL": f"{base}/{connection.settings_dict['NAME']}", "AWS_ENDPOINT_URL": sqs}
    book = tmp_path / "book"
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.jobs.sqs_reader", "orders.fifo", str(book)]
        log = tmp_path / f"reader-{len(processes)}.log"
        processes.append(spawn(command, log=log, cwd=settings.BASE_DIR, env={**os.environ, **servers, **own}))
        return processes[-1]

    book.touch()
    yield start
    for process in processes:
        process.kill()
        process.wait()


def tell(name: str, seconds: float, group: str) -> None:
    enqueue("orders.fifo", {"name": name, "seconds": seconds}, group=group, deduplication_id=name)


def test_a_message_whose_consumer_was_killed_comes_back_and_a_long_one_stays_with_its_own(
    start_reader: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    queue, book = make_queue("orders.fifo", max_receives=5), tmp_path / "book"
    tell("killed", 1.0, "a")
    first = start_reader()
    eventually(lambda: "start killed" in book.read_text())
    first.kill()
    start_reader()
    eventually(lambda: "end killed" in book.read_text())
    assert book.read_text().count("start killed") == 2

    start_reader()
    tell("long", VISIBILITY * 2.0, "b")
    eventually(lambda: "end long" in book.read_text() and not waiting(queue))
    assert book.read_text().count("start long") == 1, "it was handed to somebody else meanwhile"


def test_sigterm_lets_the_message_at_hand_finish_and_gives_the_others_back(
    start_reader: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    queue, book = make_queue("orders.fifo"), tmp_path / "book"
    for name in ("one", "two"):
        tell(name, 1.0, name)
    reader = start_reader()
    eventually(lambda: "start" in book.read_text())
    reader.send_signal(signal.SIGTERM)
    assert reader.wait(PATIENCE) == 0
    assert (book.read_text().count("start"), book.read_text().count("end"), waiting(queue)) == (1, 1, 1)
    asked_at = time.monotonic()
    assert queue.receive(1, 1, 0), "at once, and not after the visibility time-out"
    assert time.monotonic() - asked_at < VISIBILITY
