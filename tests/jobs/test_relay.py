"""The relay: what is due is published, once if all goes well and again if not; what is lost comes back."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
import redis
from celery import current_app, shared_task
from django.conf import settings
from django.db import DataError, connection
from django.utils import timezone

from apps.jobs import connections, dead_letters, ledger, queues, rescue
from apps.jobs.broker import _bury_given_up
from apps.jobs.brokers.memory import SETTLED
from apps.jobs.brokers.redis import MARK
from apps.jobs.models import Job, QueueMinute
from apps.jobs.relay import Relay, as_message
from apps.local.waiting import wait_for
from tasks.lab import lab_add, lab_nothing
from tests.jobs.bench import Bench, claim
from tests.jobs.sessions import Session
from tests.nobody import NOBODY

NOWHERE = f"redis://{NOBODY}/0"


@shared_task(name="tests.add_broker_only", durable=False)
def add_broker_only(x: str, y: str) -> None: ...


@pytest.fixture
def relay(transactional_db: None, valkey: redis.Redis) -> Iterator[Relay]:
    relay = Relay(current_app)
    yield relay
    relay.ear.close()


@pytest.fixture
def no_broker(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its address nobody listens."""
    from kombu import Connection
    from kombu.pools import producers

    options = relay.producers.connections.connection.transport_options
    away = Connection(NOWHERE, transport_options=options)
    app = current_app._get_current_object()
    monkeypatch.setattr(relay, "producers", producers[away])
    monkeypatch.setattr(app, "connection_for_write", lambda *_, **__: away.clone())


def ids_in(valkey: redis.Redis, queue: str = "default") -> list[str]:
    return [json.loads(item)["headers"]["id"] for item in valkey.lrange(queue, 0, -1)]


def states() -> set[str]:
    return set(Job.objects.values_list("state", flat=True))


def test_every_due_job_is_published_to_its_queue(relay: Relay, valkey: redis.Redis) -> None:
    here, there = lab_nothing.delay(), lab_nothing.apply_async(queue="low")
    lab_nothing.apply_async(countdown=3600)
    assert relay.run_once() == 2
    assert (ids_in(valkey), ids_in(valkey, "low")) == ([here.id], [there.id])
    assert Job.objects.get(pk=here.id).state == Job.State.SENT
    assert relay.run_once() == 0


@pytest.mark.parametrize("priority", [None, 0, 5, 9])
def test_what_is_published_is_what_kombu_would_have_published(
    relay: Relay, bench: Bench, valkey: redis.Redis, priority: int | None
) -> None:
    lab_add.apply_async(kwargs={"x": 1, "y": 2}, priority=priority, link=lab_nothing.si())
    [due] = ledger.take_due(relay.queues, 10)
    relay._publish([due])
    with relay.producers.acquire(block=True) as producer:
        relay._publish_one(producer, due, as_message(relay.app, due))
    [key] = valkey.keys("default*")
    ours, kombus = (json.loads(item) for item in valkey.lrange(key, 0, -1))
    assert ours["properties"].pop("delivery_tag") != kombus["properties"].pop("delivery_tag")
    assert ours == kombus


def test_priorities_become_kombus_lists(relay: Relay, valkey: redis.Redis) -> None:
    lab_nothing.apply_async(priority=9)
    relay.publish_due()
    assert sum(int(valkey.llen(key)) for key in valkey.keys("default*")) == 1
    assert not valkey.llen("default")


def test_a_broker_that_is_away_leaves_every_job_queued(relay: Relay, no_broker: None) -> None:
    lab_add.delay_many([{"x": 1, "y": 1}] * 20)
    started = time.monotonic()
    with pytest.raises(relay.broker_errors):
        relay.publish_due()
    assert time.monotonic() - started < 1.5, "whoever wants to cancel one of them waits for its row as long"
    assert states() == {Job.State.QUEUED}


def test_a_broker_that_is_away_is_no_reason_to_stop(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("apps.jobs.relay.time.sleep", pauses.append)
    lab_nothing.delay()
    monkeypatch.setattr(relay, "run_once", _refuse)
    for _ in range(10):
        relay._turn()
    assert len(pauses) == 10
    assert pauses[0] < 0.5
    assert max(pauses) <= 2.0


def test_what_could_not_be_published_goes_out_when_the_broker_is_back(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [lab_nothing.delay() for _ in range(3)]
    with monkeypatch.context() as broken:
        broken.setattr(relay, "_publish", _refuse)
        with pytest.raises(OSError, match="no broker"):
            relay.publish_due()
    assert relay.publish_due() == 3
    assert sorted(ids_in(valkey)) == sorted(result.id for result in results)


def _refuse(*_: Any) -> None:
    raise OSError("no broker")


def test_a_relay_that_dies_between_publishing_and_its_commit_publishes_again_and_the_job_runs_once(
    relay: Relay, valkey: redis.Redis
) -> None:
    result = lab_nothing.delay()
    dying = Session()
    dying.begin()
    with dying.current():
        relay._publish(ledger.take_due(relay.queues, 10))
    dying.close()
    assert relay.publish_due() == 1
    assert ids_in(valkey) == [result.id] * 2
    job_id = Job.objects.get().pk
    assert claim(job_id) == 1
    assert not ledger.claim({job_id: 0}, None)


def test_a_relay_that_is_frozen_as_it_publishes_loses_its_batch_to_another(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL counts the two minutes; here they are none."""
    monkeypatch.setattr(ledger, "TAKE_DUE", ledger.TAKE_DUE.replace("'2min'", "'50ms'"))
    result = lab_nothing.delay()
    with closing(Session()) as frozen:
        frozen.begin()
        with frozen.current():
            assert ledger.take_due(relay.queues, 10)
        assert wait_for(lambda: relay.publish_due() == 1, 10)
    assert ids_in(valkey) == [result.id]


def test_what_the_broker_cannot_tell_keeps_no_job_from_being_published(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "rescue", _refuse)
    monkeypatch.setattr("apps.jobs.relay.time.sleep", lambda _: None)
    result = lab_nothing.delay()
    relay._turn()
    relay._turn()
    assert ids_in(valkey) == [result.id]


def test_a_paused_queue_is_not_published(relay: Relay, valkey: redis.Redis) -> None:
    queues.pause("default")
    lab_nothing.delay()
    assert relay.publish_due() == 0
    assert ids_in(valkey) == []


def test_a_stop_is_obeyed_between_two_batches(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.jobs.relay.signal.signal", lambda *_: None)
    turns: list[int] = []

    def turn() -> None:
        turns.append(1)
        relay._stop()

    monkeypatch.setattr(relay, "_turn", turn)
    relay.run()
    assert turns == [1]


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A relay that runs in the process of the tests leaves its signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_of_a_batch_lets_it_finish_and_begins_no_other(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, own_signals: None, number: signal.Signals
) -> None:
    monkeypatch.setattr("apps.jobs.relay.BATCH", 2)
    first, second, third = (lab_nothing.delay() for _ in range(3))
    publish = relay._publish

    def publish_while_stopped(due: Any) -> Any:
        signal.raise_signal(number)
        return publish(due)

    monkeypatch.setattr(relay, "_publish", publish_while_stopped)
    relay.run()
    assert sorted(ids_in(valkey)) == sorted([first.id, second.id])
    assert set(Job.objects.filter(state=Job.State.SENT).values_list("pk", flat=True)) == {
        UUID(first.id),
        UUID(second.id),
    }
    assert Job.objects.get(pk=third.id).state == Job.State.QUEUED


# --- What nobody tells the relay --------------------------------------------------------------------------------------


def test_a_job_that_is_due_without_a_notification_waits_for_the_poll_and_no_longer(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.jobs.relay.POLL_EVERY", 0.2)
    waits: list[tuple[float, bool]] = []
    wait = relay.ear.wait

    def wait_while_it_becomes_due(timeout: float) -> None:
        Job.objects.update(run_at=timezone.now())  # as a person does it in psql
        waits.append((timeout, wait(timeout)))

    monkeypatch.setattr(relay.ear, "wait", wait_while_it_becomes_due)
    result = lab_nothing.apply_async(countdown=3600)
    wait(0.01)  # it listens; what it has been told so far, it has heard
    relay._turn()
    assert (waits, ids_in(valkey)) == ([(0.2, False)], []), "it was told"
    relay._turn()
    assert ids_in(valkey) == [result.id]


def test_a_relay_whose_ear_is_cut_off_listens_again_and_publishes(
    relay: Relay, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, own_signals: None
) -> None:
    cut_off = relay.ear._listening()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [cut_off.info.backend_pid])
    results = []
    # It notices as it begins to wait. Of what is recorded before it listens again, nobody tells it.
    monkeypatch.setattr("apps.jobs.relay.time.sleep", lambda _: results.append(lab_nothing.delay()))
    publish = relay._publish

    def publish_and_stop(due: Any) -> Any:
        relay._stop()
        return publish(due)

    monkeypatch.setattr(relay, "_publish", publish_and_stop)
    relay.run()
    assert ids_in(valkey) == [result.id for result in results]
    assert len(results) == 1
    assert relay.ear.wait(0.01) is False
    assert relay.ear._session is not cut_off


def test_a_database_that_is_away_is_no_reason_to_stop(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.jobs.relay.signal.signal", lambda *_: None)
    monkeypatch.setattr("apps.jobs.relay.time.sleep", lambda _: None)
    outcomes = iter([connections.LOST[0]("server closed the connection"), None])

    def turn() -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome
        relay._stop()

    monkeypatch.setattr(relay, "_turn", turn)
    relay.run()
    assert next(outcomes, "both turns were taken") == "both turns were taken"


def test_a_message_looks_like_celerys_own(relay: Relay, valkey: redis.Redis) -> None:
    result = lab_add.apply_async((1,), {"y": 2}, headers={"tenant": "north"}, time_limit=9, soft_time_limit=8)
    relay.publish_due()
    message = json.loads(valkey.lrange("default", 0, -1)[0])
    headers = message["headers"]
    assert (headers["id"], headers["task"], headers["tenant"]) == (result.id, "tasks.lab_add", "north")
    assert (headers["ledger"], headers["retries"], headers["timelimit"]) == (True, 0, [9, 8])
    assert headers["eta"] is None


def test_a_message_shows_as_much_of_its_arguments_as_celerys_own(relay: Relay, valkey: redis.Redis) -> None:
    lab_add.delay("x" * 200_000, y="y" * 200_000)
    relay.publish_due()
    add_broker_only.apply_async(("x" * 200_000,), {"y": "y" * 200_000})
    for item in valkey.lrange("default", 0, -1):
        headers = json.loads(item)["headers"]
        assert headers["argsrepr"].startswith("['xxx")
        assert headers["kwargsrepr"].startswith("{'y': 'yyy")
        assert max(len(headers["argsrepr"]), len(headers["kwargsrepr"])) < 1_100


# --- What the broker lost ---------------------------------------------------------------------------------------------


@pytest.fixture
def sent(relay: Relay) -> str:
    """A job whose message is in the broker, and a relay that knows this broker."""
    relay.rescue()
    result = lab_nothing.delay()
    relay.publish_due()
    return str(result.id)


def grow_older(by: timedelta) -> None:
    Job.objects.update(sent_at=timezone.now() - by)


def test_a_wiped_broker_gets_every_message_again(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    valkey.flushdb()
    relay.rescue()
    relay.publish_due()
    assert ids_in(valkey) == [sent]


def test_another_broker_process_gets_every_message_again(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    valkey.set(MARK, "the run id of the one before")
    relay.rescue()
    assert states() == {Job.State.QUEUED}
    relay.publish_due()
    relay.rescue()
    assert states() == {Job.State.SENT}, "the mark was not renewed"


def test_an_empty_queue_with_sent_jobs_has_lost_them(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    valkey.delete("default")
    relay.rescue()
    assert states() == {Job.State.SENT}, "it may still be on its way"
    grow_older(SETTLED + timedelta(seconds=1))
    relay.rescue()
    assert states() == {Job.State.QUEUED}


def test_a_queue_that_still_has_messages_has_lost_nothing(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    grow_older(SETTLED + timedelta(minutes=1))
    relay.rescue()
    assert states() == {Job.State.SENT}


def test_a_message_that_a_worker_holds_is_not_lost(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    valkey.delete("default")
    valkey.hset("unacked", "tag", "held")
    grow_older(SETTLED + timedelta(minutes=1))
    relay.rescue()
    assert states() == {Job.State.SENT}


def test_a_message_of_long_ago_is_lost_whatever_the_broker_says(relay: Relay, sent: str) -> None:
    grow_older(settings.JOBS_SENT_TIMEOUT + timedelta(minutes=1))
    relay.rescue()
    assert states() == {Job.State.QUEUED}


def test_a_needless_second_message_is_dropped(relay: Relay, valkey: redis.Redis, sent: str) -> None:
    bench = Bench()
    rescue.resend(before=timezone.now() + timedelta(seconds=1))
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    assert Job.objects.get().attempts == 1
    assert states() == {Job.State.SUCCEEDED}


def test_jobs_of_dead_workers_are_handed_on(relay: Relay, settings: Any) -> None:
    settings.JOBS_LEASE = timedelta(0)
    lab_nothing.delay()
    claim(Job.objects.get().pk)
    relay.rescue()
    assert states() == {Job.State.QUEUED}


def test_hundreds_of_jobs_of_a_dead_worker_do_not_wait_for_one_another(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_on = Mock(side_effect=[100, 100, 7, 0])
    monkeypatch.setattr(rescue, "hand_on_expired", hand_on)
    for _ in range(5):
        relay.run_once()
    assert hand_on.call_count == 3


@pytest.mark.django_db
def test_a_message_that_was_given_up_and_cannot_be_kept_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = Mock(headers={}), Mock(headers={})
    monkeypatch.setattr(dead_letters, "write_for_message", Mock(side_effect=[DataError("invalid"), None]))
    _bury_given_up(Mock(given_up=lambda: iter([bad, good])))
    bad.ack.assert_not_called()
    good.ack.assert_called_once()


def test_the_queues_are_looked_at_while_the_broker_is_away(relay: Relay, no_broker: None) -> None:
    lab_nothing.delay()
    with pytest.raises(relay.broker_errors):
        relay.run_once()
    assert QueueMinute.objects.get(queue="default").waiting == 1
