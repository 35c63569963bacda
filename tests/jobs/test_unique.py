"""At most one live job for a key, however many ask at once."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import shared_task
from django.db import connection, transaction
from django.utils import timezone

from apps.jobs import dead_letters, ledger, sensitive, unique
from apps.jobs.failures import Failure
from apps.jobs.models import Job
from tasks.lab import lab_unique
from tests.jobs.bench import Bench, Message


@shared_task(name="tests.until_started", unique=("key",), unique_until="started")
def until_started(key: str) -> None:
    pass


@shared_task(name="tests.for_an_hour", unique=("key",), unique_for=timedelta(hours=1))
def for_an_hour(key: str) -> None:
    pass


@shared_task(name="tests.fail_uniquely", unique=("key",))
def fail_uniquely(key: str) -> None:
    raise ValueError(key)


@shared_task(name="tests.broker_only_unique", unique=("key",), durable=False)
def broker_only_unique(key: str, other: int = 0) -> None:
    pass


@shared_task(name="tests.unique_secret", unique=("card", "shop"), sensitive=("card",))
def unique_secret(card: str, shop: int = 1) -> None:
    pass


@shared_task(name="tests.broker_only_unique_secret", unique=("card",), sensitive=("card",), durable=False)
def broker_only_unique_secret(card: str) -> None:
    pass


def test_a_second_job_with_the_key_is_the_first_one(bench: Bench) -> None:
    first, second = lab_unique.delay("a"), lab_unique.delay(key="a", seconds=9)
    assert (first.id, first.created) == (second.id, True)
    assert not second.created
    assert Job.objects.count() == 1


def test_other_arguments_are_other_jobs(bench: Bench) -> None:
    assert lab_unique.delay("a").id != lab_unique.delay("b").id


@pytest.mark.parametrize("task", [lab_unique, fail_uniquely], ids=["succeeded", "dead"])
def test_the_key_is_free_after_the_end(bench: Bench, task: Any) -> None:
    first = task.delay("a")
    bench.run_all()
    assert task.delay("a").id != first.id


def test_the_key_is_free_after_a_cancel(bench: Bench) -> None:
    first = lab_unique.delay("a")
    ledger.cancel(Job.objects.get().pk)
    assert lab_unique.delay("a").id != first.id


def test_the_key_is_held_while_the_job_waits_for_its_retry(bench: Bench) -> None:
    first = lab_unique.delay("a")
    Job.objects.update(run_at=timezone.now() + timedelta(hours=1), retries=3)
    assert lab_unique.delay("a").id == first.id


def test_until_started_means_that_a_running_job_lets_the_next_one_wait(bench: Bench) -> None:
    first = until_started.delay("a")
    assert until_started.delay("a").id == first.id
    [message] = bench.send()
    ledger.claim({Job.objects.get().pk: 0}, None)
    assert until_started.delay("a").id != first.id
    del message


def test_for_a_period_means_that_the_end_does_not_free_the_key(bench: Bench) -> None:
    first = for_an_hour.delay("a")
    bench.run_all()
    assert for_an_hour.delay("a").id == first.id
    Job.objects.update(unique_expires_at=timezone.now() - timedelta(seconds=1))
    assert for_an_hour.delay("a").id != first.id


def test_a_period_that_is_over_does_not_free_the_key_of_a_live_job(bench: Bench) -> None:
    first = for_an_hour.delay("a")
    Job.objects.update(unique_expires_at=timezone.now() - timedelta(seconds=1))
    assert for_an_hour.delay("a").id == first.id


def test_a_rollback_frees_the_key(bench: Bench) -> None:
    with transaction.atomic():
        lab_unique.delay("a")
        transaction.set_rollback(True)
    assert lab_unique.delay("a").created


def test_many_jobs_at_once_may_contain_a_duplicate(bench: Bench) -> None:
    ids = lab_unique.delay_many([{"key": "a"}, {"key": "b"}, {"key": "a"}])
    assert ids[0] == ids[2]
    assert Job.objects.count() == 2


def test_a_secret_counts_by_its_value(bench: Bench) -> None:
    first = unique_secret.delay("4242")
    assert unique_secret.delay(card="4242", shop=1).id == first.id
    assert unique_secret.delay_many([{"card": "4242"}]) == [first.id]
    assert unique_secret.delay("4000").id != first.id
    assert unique_secret.delay("4242", shop=2).id != first.id


def test_nobody_finds_a_secret_by_its_key(bench: Bench, settings: Any) -> None:
    """Who tries every card number needs SECRET_KEY for it."""
    unique_secret.delay("4242")
    key = Job.objects.get().unique_key
    assert key != unique.key_of(unique_secret.name, unique_secret.unique, {"card": "4242", "shop": 1})
    settings.SECRET_KEY = "another"
    assert unique_secret.delay("4242").created
    assert Job.objects.filter(unique_key=key).count() == 1


def test_a_replay_of_a_secret_holds_its_key(bench: Bench) -> None:
    first = unique_secret.delay("4242")
    with transaction.atomic():
        ledger.bury(Job.objects.get().pk, None, Failure.worker_lost())
    replayed = dead_letters.replay(bench.letter(first).pk)
    assert unique_secret.delay("4242").id == str(replayed)


def test_a_secret_that_no_key_opens_is_like_no_other(bench: Bench, settings: Any) -> None:
    lost = [sensitive.seal({"card": "4242", "shop": 1}, ["card"]) for _ in range(2)]
    settings.SECRET_KEY = "a new one, and the old one is lost"
    assert unique_secret._unique_key([], lost[0]) != unique_secret._unique_key([], lost[1])


@pytest.mark.django_db(transaction=True)
def test_of_eight_who_ask_at_the_same_moment_one_gets_the_job() -> None:
    def ask(_: int) -> Any:
        try:
            return lab_unique.delay("a")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    assert len({result.id for result in results}) == 1
    assert [result.created for result in results].count(True) == 1


# --- Broker-only tasks ------------------------------------------------------------------------------------------------


@pytest.fixture
def lock_store(valkey: redis.Redis) -> redis.Redis:
    return valkey


def test_a_lock_has_one_owner_and_only_that_one_releases_it(lock_store: redis.Redis) -> None:
    assert unique.lock("k", "mine", 60) == "mine"
    assert unique.lock("k", "yours", 60) == "mine"
    unique.unlock("k", "yours")
    assert unique.lock("k", "yours", 60) == "mine"
    unique.unlock("k", "mine")
    assert unique.lock("k", "yours", 60) == "yours"


def test_a_lock_ends_by_itself(lock_store: redis.Redis) -> None:
    unique.lock("k", "mine", 60)
    assert 0 < lock_store.pttl("unique:k") <= 60_000


def test_a_second_broker_only_job_with_the_key_is_not_sent(lock_store: redis.Redis) -> None:
    first, second = broker_only_unique.delay("a"), broker_only_unique.delay("a", other=1)
    assert first.id == second.id
    assert lock_store.llen("default") == 1


def test_a_broker_only_job_with_a_secret_has_its_lock_and_releases_it(lock_store: redis.Redis, db: None) -> None:
    first = broker_only_unique_secret.delay("4242")
    assert broker_only_unique_secret.delay("4242").id == first.id
    [item] = map(json.loads, lock_store.lrange("default", 0, -1))
    body = base64.b64decode(item["body"]).decode()
    Bench().deliver(Message(item["headers"], body, "default"))
    assert not lock_store.keys("unique:*")


def test_a_lock_is_released_when_the_message_could_not_be_sent(
    lock_store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no broker")

    with monkeypatch.context() as broken:
        broken.setattr("celery.app.task.Task.apply_async", refuse)
        with pytest.raises(ConnectionError):
            broker_only_unique.delay("a")
    assert unique.lock(unique.key_of(broker_only_unique.name, ("key",), {"key": "a"}), str(uuid4()), 1)
    assert not lock_store.llen("default")


def test_the_order_and_the_way_in_do_not_change_the_key() -> None:
    assert unique.key_of("t", ("a", "b"), {"a": 1, "b": 2, "c": 3}) == unique.key_of("t", ("a", "b"), {"b": 2, "a": 1})
    assert unique.key_of("t", ("a",), {"a": 1}) != unique.key_of("t", ("a",), {"a": "1"})
