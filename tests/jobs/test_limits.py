"""Fleet-wide limits: the rate is counted in a real Redis, and slots in the ledger."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from celery import shared_task
from django.db import OperationalError, connection
from django.utils import timezone

from apps.jobs import ledger
from apps.jobs.limits import FULL, WITHOUT_REDIS, Rate, Running
from apps.jobs.models import DeadLetter, Job
from apps.jobs.snooze import Snooze
from tests.jobs.bench import Bench
from tests.nobody import NOBODY

NOWHERE = f"redis://{NOBODY}/0"
PLENTY = 20


@pytest.fixture
def key(valkey: redis.Redis) -> str:
    return f"supplier-{uuid4()}"


def running_job() -> tuple[UUID, int]:
    """A job that a living worker runs, and its token."""
    [recorded] = ledger.record([ledger.NewJob(task="tasks.lab_nothing", args=[], kwargs={}, queue="default")])
    return recorded.id, ledger.claim({recorded.id: 0}, None)[recorded.id]


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """The results of so many threads that all start at the same moment, each with a connection of its own."""
    ready = threading.Barrier(count)

    def run(number: int) -> Any:
        ready.wait()
        try:
            return call(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# --- Rate -------------------------------------------------------------------------------------------------------------


def allowed(rate: Rate) -> bool:
    try:
        rate.acquire()
    except Snooze:
        return False
    return True


def test_no_more_calls_than_the_rate_allows_whoever_makes_them(key: str) -> None:
    results = at_once(PLENTY, lambda _: allowed(Rate(key, "5/minute")))

    assert results.count(True) == 5


def test_who_is_refused_is_told_when_a_place_is_free(key: str) -> None:
    rate = Rate(key, "2/minute")
    rate.acquire()
    rate.acquire()

    with pytest.raises(Snooze) as refused:
        rate.acquire()

    a_minute_and_jitter = 60 + 2 * 60 / 2
    assert 55 < refused.value.seconds <= a_minute_and_jitter
    assert key in refused.value.reason


def test_keys_do_not_share_a_limit(key: str) -> None:
    Rate(key, "1/minute").acquire()

    assert allowed(Rate(f"{key}-other", "1/minute"))
    assert not allowed(Rate(key, "1/minute"))


def test_a_limit_that_cannot_be_counted_is_not_passed(settings: Any) -> None:
    settings.REDIS_URL = NOWHERE

    with pytest.raises(Snooze) as refused:
        Rate("supplier", "1000/second").acquire()

    assert WITHOUT_REDIS / 2 <= refused.value.seconds <= WITHOUT_REDIS * 1.5


def test_a_rate_that_makes_no_sense_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="30 a minute"):
        Rate("supplier", "30 a minute")


# --- Running at once --------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(transactional_db: None) -> list[tuple[UUID, int]]:
    return [running_job() for _ in range(PLENTY)]


def take(job: tuple[UUID, int], at_most: int = 3) -> bool:
    return ledger.take_slot(*job, "supplier", at_most)


def test_of_many_that_start_at_once_only_so_many_get_a_slot(jobs: list[tuple[UUID, int]]) -> None:
    results = at_once(PLENTY, lambda number: take(jobs[number]))

    assert results.count(True) == 3
    assert Job.objects.filter(running_key="supplier").count() == 3


def test_slots_of_other_keys_do_not_count(jobs: list[tuple[UUID, int]]) -> None:
    assert take(jobs[0], at_most=1)
    assert ledger.take_slot(*jobs[1], "another", at_most=1)


@pytest.mark.parametrize(
    "leave",
    [
        ledger.leave_slot,
        ledger.succeed,
        lambda job_id, token: ledger.snooze(job_id, token, 60),
        ledger.cancelled,
    ],
    ids=["left", "succeeded", "snoozed", "cancelled"],
)
def test_whatever_ends_an_attempt_frees_its_slot(
    jobs: list[tuple[UUID, int]], leave: Callable[[UUID, int], object]
) -> None:
    assert take(jobs[0], at_most=1)
    assert not take(jobs[1], at_most=1)

    leave(*jobs[0])

    assert take(jobs[1], at_most=1)


def test_a_dead_workers_slot_comes_back_with_its_lease(jobs: list[tuple[UUID, int]]) -> None:
    assert take(jobs[0], at_most=1)

    Job.objects.filter(pk=jobs[0][0]).update(lease_until=timezone.now() - timedelta(seconds=1))

    assert take(jobs[1], at_most=1)


def test_a_worker_that_lost_its_lease_gets_no_slot(jobs: list[tuple[UUID, int]]) -> None:
    job_id, token = jobs[0]

    with pytest.raises(ledger.LeaseLost):
        take((job_id, token - 1))


def test_a_job_holds_one_slot_at_a_time(jobs: list[tuple[UUID, int]]) -> None:
    take(jobs[0])

    with pytest.raises(ValueError, match="'supplier' already"):
        ledger.take_slot(*jobs[0], "another", at_most=1)


# --- In tasks ---------------------------------------------------------------------------------------------------------

seen: list[str | None] = []


@shared_task(name="tests.call_supplier")
def call_supplier() -> None:
    """Safe to run twice: it only looks."""
    with Running("supplier", at_most=1):
        seen.append(Job.objects.get(task="tests.call_supplier", state="running").running_key)
    seen.append(Job.objects.get(task="tests.call_supplier", state="running").running_key)


@shared_task(name="tests.call_supplier_atomically", atomic=True)
def call_supplier_atomically() -> None:
    """Safe to run twice: it does nothing."""
    with Running("supplier", at_most=1):
        pass


def test_a_task_holds_its_slot_for_the_block(bench: Bench) -> None:
    seen.clear()
    result = call_supplier.delay()

    bench.run_due()

    assert seen == ["supplier", None]
    assert bench.job(result).state == "succeeded"


def test_a_task_that_gets_no_slot_is_snoozed_and_pays_no_retry(bench: Bench) -> None:
    ledger.take_slot(*running_job(), "supplier", at_most=1)
    result = call_supplier.delay()

    bench.run_due()

    job = bench.job(result)
    assert (job.state, job.retries, job.attempts) == ("queued", 0, 0)
    assert FULL / 2 - 1 < (job.run_at - timezone.now()).total_seconds() <= FULL * 1.5


@pytest.mark.django_db(transaction=True)
def test_a_slot_whose_commit_was_not_answered_is_the_jobs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    take_slot, answers = ledger.take_slot, [OperationalError("the connection is lost"), None]

    def take_and_lose_the_answer(*args: Any, **options: Any) -> bool:
        taken = take_slot(*args, **options)
        if answer := answers.pop(0):
            raise answer
        return taken

    monkeypatch.setattr(ledger, "take_slot", take_and_lose_the_answer)
    result = call_supplier.delay()

    Bench().run_due()

    assert seen == ["supplier", None]
    assert Job.objects.get(pk=result.id).state == "succeeded"


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_is_told_that_its_slot_would_be_seen_by_nobody() -> None:
    result = call_supplier_atomically.delay()

    Bench().run_due()

    assert "durable" in DeadLetter.objects.get(job_id=result.id).message


def test_outside_of_a_job_there_is_nothing_to_count() -> None:
    with pytest.raises(RuntimeError, match="durable task"), Running("supplier", at_most=1):
        pass
