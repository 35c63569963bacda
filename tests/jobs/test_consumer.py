"""What never becomes a task call: every bad message is told from a good one, and kept as a dead letter.

That a real worker outlives them is shown in `tests/acceptance`.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from celery import current_app
from celery.worker import state
from django.db import OperationalError, ProgrammingError
from kombu.asynchronous.timer import Timer
from kombu.transport.virtual import Channel, Message
from redis.exceptions import ConnectionError as RedisConnectionError

from apps.jobs import connections, dead_letters, lease, ledger
from apps.jobs.consumer import BadMessage, JobConsumer
from apps.jobs.envelope import DELIVERIES, readable
from apps.jobs.failures import Failure
from apps.jobs.models import DeadLetter, Job
from apps.jobs.transport import Client
from config.broker import DELIVERY_LIMIT
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench
from tests.jobs.malformed import HARMLESS, KINDS, UNUSABLE, addressed, envelope, kinds_of_letters, packed

# A task of the worker's, which runs into these later than the consumer does.
REFUSED_BY_THE_TASK = {"an argument too many", "an argument too many with a NUL", "expired an hour ago"}
REFUSED_AT_ONCE = [name for name in UNUSABLE if name not in REFUSED_BY_THE_TASK]


class Consumer(JobConsumer):
    """Ours, without a worker around it: it notes which messages it would run."""

    def __init__(self) -> None:
        self.app = current_app
        self.ran: list[Any] = []
        self.on_task_message: set[Any] = set()
        self.connection_errors = (OSError,)
        self.controller, self.pool = Mock(state=state), Mock()
        self.task_buckets: Any = defaultdict(lambda: None)
        self.task_join_will_block = True
        self.hostname = "bench"
        self.event_dispatcher = Mock(enabled=False)
        self.timer = Mock()
        self.disable_rate_limits = True
        self.on_task_request = self.ran.append
        self.claims: Any = None
        self.initial_prefetch_count = 1
        self._maximum_prefetch_restored = True
        self.call_soon = Mock()
        self.strategies = {name: task.start_strategy(current_app, self) for name, task in current_app.tasks.items()}

    def receive(self, item: bytes) -> Any:
        """What the transport brings, as kombu makes a message of it."""
        channel = Mock(codecs=Channel.codecs)
        channel.decode_body = partial(Channel.decode_body, channel)
        message: Any = Message(json.loads(readable(item, "default")), channel=channel)
        message.ack_log_error = message.ack = Mock()
        message.reject_log_error = Mock()
        if message.errors:
            message._reraise_error(self.on_decode_error)
        else:
            self.create_task_handler()(message)
        return message


@pytest.fixture
def consumer(db: None) -> Consumer:
    return Consumer()


def test_when_the_connection_is_lost_what_a_child_was_given_stays_ours_and_the_rest_is_handed_back(
    consumer: Consumer, bench: Bench
) -> None:
    lab_nothing.delay_many([{}] * 2)
    given, waiting = map(bench.request, bench.send())
    tokens = ledger.claim({given.job_id: 0, waiting.job_id: 0}, lease.worker_id())
    for request in (given, waiting):
        request.grant(tokens[request.job_id], claimed_at=0.0, ends_here=True)
        state.task_reserved(request)
    given._apply_result = lambda: Mock(_write_to=Mock())
    consumer.claims = Mock()
    consumer.on_close()
    assert list(state.reserved_requests) == [given]
    assert bench.job(given).state == Job.State.RUNNING
    assert bench.job(waiting).state == Job.State.QUEUED
    consumer.claims.forget.assert_called_once_with()
    state.reset_state()


@pytest.fixture
def given(bench: Bench) -> Iterator[Any]:
    """A job that a child was given, and has not said that it began."""
    lab_nothing.delay()
    [request] = map(bench.request, bench.send())
    ledger.claim({request.job_id: 0}, lease.worker_id())
    request.grant(1, claimed_at=0.0, ends_here=True)
    request._apply_result = lambda: Mock(_write_to=Mock())
    state.task_reserved(request)
    yield request
    state.reset_state()


def test_what_is_heard_to_have_ended_as_the_connection_is_lost_is_not_kept(consumer: Consumer, given: Any) -> None:
    consumer.pool.flush = lambda: state.task_ready(given)
    consumer.on_close()
    assert lease.held_jobs() == []
    assert given.id not in state.requests


def test_what_is_heard_to_have_begun_as_the_connection_is_lost_is_active(consumer: Consumer, given: Any) -> None:
    consumer.pool.flush = lambda: given.on_accepted(7, time.monotonic())
    consumer.on_close()
    assert list(state.active_requests) == [given]


def test_what_is_not_heard_of_as_the_connection_is_lost_is_kept_and_not_active(consumer: Consumer, given: Any) -> None:
    consumer.on_close()
    assert (list(state.reserved_requests), list(state.active_requests)) == ([given], [])
    assert given.id in state.requests


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_a_message_that_nobody_can_run_is_one_dead_letter(consumer: Consumer, name: str) -> None:
    message = consumer.receive(addressed(name))
    assert consumer.ran == []
    letter = DeadLetter.objects.get()
    assert letter.message
    assert letter.kind == KINDS[name]
    assert kinds_of_letters([letter])[name] == [letter.kind], "the letter does not say which message it stands for"
    message.ack.assert_called_once()


@pytest.mark.parametrize("item", HARMLESS.values(), ids=HARMLESS.keys())
def test_a_message_that_is_only_odd_is_run(consumer: Consumer, item: bytes) -> None:
    consumer.receive(item)
    assert len(consumer.ran) == 1
    assert not DeadLetter.objects.exists()


def delivered(times: int, **headers: Any) -> bytes:
    return packed(headers={DELIVERIES: times, **headers})


def test_a_message_that_kills_every_worker_is_a_dead_letter_in_the_end(consumer: Consumer) -> None:
    consumer.receive(delivered(DELIVERY_LIMIT - 1))
    assert (len(consumer.ran), DeadLetter.objects.count()) == (1, 0)
    consumer.receive(delivered(DELIVERY_LIMIT)).ack.assert_called_once()
    assert (len(consumer.ran), DeadLetter.objects.get().kind) == (1, "crashed")


def test_the_ledger_counts_its_own_jobs_crashes(consumer: Consumer) -> None:
    consumer.receive(delivered(DELIVERY_LIMIT, ledger=True))
    assert (len(consumer.ran), DeadLetter.objects.count()) == (1, 0)


def test_the_letter_shows_what_could_be_read(consumer: Consumer) -> None:
    call = envelope(body=[[1], {"b": 2}, {}], headers={"task": "tasks.of_the_next_release"})
    consumer.receive(json.dumps(call).encode())
    letter = DeadLetter.objects.get()
    assert (letter.task, letter.args, letter.kwargs) == ("tasks.of_the_next_release", [1], {"b": 2})
    assert (letter.kind, letter.queue) == ("unknown_task", "default")


def test_a_letter_shows_the_beginning_of_megabytes(consumer: Consumer) -> None:
    consumer.receive(b"x" * 5_000_000)
    assert 1_000 < len(str(DeadLetter.objects.get().args)) < 30_000


def test_a_message_that_comes_again_because_its_worker_was_killed_keeps_its_one_letter(consumer: Consumer) -> None:
    item = json.dumps(envelope(headers={"id": None})).encode()
    for _ in range(2):
        consumer.receive(item).ack.assert_called_once()
    assert DeadLetter.objects.count() == 1


def test_without_a_database_the_message_comes_back_later_and_is_not_lost(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_this", lease.ThisWorker(timer=Mock()))
    monkeypatch.setattr("apps.jobs.consumer.PATIENCE", 0)
    monkeypatch.setattr(dead_letters, "write_for_message", _away)
    message = consumer.receive(UNUSABLE["body is not JSON"])
    message.ack.assert_not_called()
    assert_comes_back_later(message)


def assert_comes_back_later(message: Any) -> None:
    [(after, give_back)] = [call.args for call in lease._this.timer.call_after.call_args_list]
    give_back()
    assert after == lease.REQUEUE_AFTER
    message.reject_log_error.assert_called_once_with(lease.logger, (OSError,), requeue=True)


def _away(*args: Any) -> None:
    raise OperationalError("connection refused")


def test_a_durable_job_that_this_worker_does_not_know_goes_back_to_the_ledger(bench: Bench) -> None:
    result = lab_nothing.delay()
    Job.objects.update(task="tasks.of_the_next_release")
    [message] = bench.send()
    item = envelope(body=json.loads(message.body), headers=message.headers)
    Consumer().receive(json.dumps(item).encode()).ack.assert_called_once()
    assert bench.job(result).state == Job.State.QUEUED
    assert not DeadLetter.objects.exists()


def test_an_unknown_job_comes_back_later_while_a_deploy_migrates(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_this", lease.ThisWorker(timer=Mock()))
    monkeypatch.setattr("apps.jobs.rescue.hand_back_unknown", Mock(side_effect=ProgrammingError("no such column")))
    message = consumer.receive(packed(headers={"task": "tasks.of_the_next_release", "ledger": True}))
    assert not DeadLetter.objects.exists()
    assert_comes_back_later(message)


def test_an_envelope_that_is_good_is_left_alone() -> None:
    item = json.dumps(envelope()).encode()
    assert readable(item, "default") is item


def test_only_what_brpop_brings_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Any, connection: Any, command: str, **options: Any) -> Any:
        return None if command == "EMPTY" else (b"default", b"garbage")

    monkeypatch.setattr("redis.Redis.parse_response", answer)
    client = Client()
    assert client.parse_response(None, "LRANGE") == (b"default", b"garbage")
    queue, item = client.parse_response(None, "BRPOP")
    assert queue == b"default"
    assert json.loads(item)["body"] == "garbage"


def test_a_broker_that_restarts_does_not_end_the_worker(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery 5.7.0 closes the channel twice, and raises AttributeError the second time."""

    def close_twice(self: Any, exc: Exception) -> None:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")

    monkeypatch.setattr("celery.worker.consumer.Consumer.on_connection_error_after_connected", close_twice)
    consumer.on_connection_error_after_connected(RedisConnectionError())


def test_a_child_that_has_not_reported_yet_does_not_end_a_worker_whose_broker_is_away(consumer: Consumer) -> None:
    """Celery's timer looks for it among those that it listens to, which are none while there is no broker."""
    consumer.hub = Mock(fire_timers=Mock(side_effect=AssertionError), timer=Timer())
    consumer.timer_entries_before_start = set()
    consumer.ensure_connected(found_at_the_second_try())
    consumer.hub.fire_timers.assert_called_once()


def test_a_timer_that_is_set_while_the_broker_is_away_does_not_go_with_the_next_connection(consumer: Consumer) -> None:
    timer, set_meanwhile = Timer(), []
    consumer.hub = Mock(timer=timer, fire_timers=lambda: set_meanwhile.append(timer.call_after(1, Mock())))
    consumer.timer_entries_before_start = set()
    of_the_connection = timer.call_after(1, Mock())
    consumer.ensure_connected(found_at_the_second_try())
    assert of_the_connection not in consumer.timer_entries_before_start
    assert consumer.timer_entries_before_start == set(set_meanwhile)


def found_at_the_second_try() -> Mock:
    return Mock(ensure_connection=lambda _errback, _retries, callback: callback())


def test_a_letter_for_a_message_is_grouped_with_its_like(consumer: Consumer) -> None:
    for _ in range(2):
        consumer.receive(UNUSABLE["body is not JSON"])
    assert DeadLetter.objects.values("fingerprint").distinct().count() == 1


def test_failures_of_one_message_do_not_reach_the_next(consumer: Consumer) -> None:
    consumer.receive(UNUSABLE["envelope is not JSON"])
    consumer.receive(HARMLESS["no options"])
    assert len(consumer.ran) == 1


def test_a_bad_message_names_what_is_wrong_with_it() -> None:
    failure = Failure.of(BadMessage("The header 'id' is 42, not a name."))
    assert failure.message == "The header 'id' is 42, not a name."
    assert connections.LOST
