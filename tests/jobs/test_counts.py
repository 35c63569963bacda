"""Counts, checked against traffic that is known."""

import pickle
import time
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import current_app
from celery.exceptions import Ignore, Reject
from django.db import DataError, OperationalError, ProgrammingError, connection

from apps.jobs import lease, ledger, rescue
from apps.jobs.failures import Failure
from apps.jobs.metrics import counts, meter
from apps.jobs.metrics.counts import BOUNDS, COUNTERS, Histogram
from apps.jobs.models import TaskMinute, TaskTotal
from apps.jobs.progress import Cancelled
from apps.jobs.snooze import Snooze
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench, claim
from tests.jobs.sessions import Session

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    counts._tallies.take()


def total(task: str = "tasks.lab_nothing", queue: str = "default") -> TaskTotal:
    return TaskTotal.objects.get(task=task, queue=queue)


def counted(row: Any) -> dict[str, int]:
    return {name: number for name in COUNTERS if (number := getattr(row, name))}


def test_what_is_written_twice_is_added_up_in_the_minute_and_in_the_total() -> None:
    for wait in (0.004, 3.0):
        counts.count("started", "tasks.lab_nothing", "default", 2)
        counts.observe("wait", "tasks.lab_nothing", "default", wait)
        counts.write()
    for row in (total(), TaskMinute.objects.get()):
        assert counted(row) == {"started": 4}
        assert row.wait_seconds == pytest.approx(3.004)
        assert (row.wait_buckets[0], row.wait_buckets[BOUNDS.index(5.0)], sum(row.wait_buckets)) == (1, 1, 2)
        assert sum(row.run_buckets) == 0


def test_names_from_outside_make_one_row() -> None:
    for number in range(3):
        counts.count("sent", f"tasks.invented_{number}", f"queue {number}")
    counts.write()
    assert counted(total("unknown", "unknown")) == {"sent": 3}


def test_nothing_that_happened_writes_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        counts.write()


@pytest.mark.parametrize(
    "trouble", [OperationalError("the server closed the connection"), ProgrammingError("no such column"), DataError()]
)
def test_counts_wait_for_a_database_that_does_not_take_them(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def away(_: Any) -> None:
        raise trouble

    counts.count("sent", "tasks.lab_nothing", "default")
    with monkeypatch.context() as outage:
        outage.setattr(counts, "_add", away)
        outage.setattr(connection, "close", lambda: None)  # the test's own transaction
        counts.write()
    counts.count("sent", "tasks.lab_nothing", "default")
    counts.write()
    assert counted(total()) == {"sent": 2}


@pytest.mark.django_db(transaction=True)
def test_counts_wait_for_whoever_holds_a_total_and_their_process_does_not() -> None:
    """A process that was frozen as it wrote, for example."""
    for _ in range(2):
        counts.count("sent", "tasks.lab_nothing", "default")
        with closing(Session()) as frozen, closing(Session(lock_timeout="5s")) as worker:
            frozen.begin()
            with frozen.current():
                list(TaskTotal.objects.select_for_update())
            began = time.monotonic()
            with worker.current():
                counts.write()
            assert time.monotonic() - began < 4
    counts.write()
    assert counted(total()) == {"sent": 2}


def test_a_bound_belongs_to_its_bucket_and_what_is_longer_than_all_to_the_last() -> None:
    histogram = Histogram()
    histogram.observe(BOUNDS[0])
    histogram.observe(BOUNDS[-1] + 1)
    assert (histogram.buckets[0], histogram.buckets[-1], len(histogram.buckets)) == (1, 1, len(BOUNDS) + 1)


def test_the_main_process_counts_each_step_of_a_message(bench: Bench) -> None:
    lab_nothing.delay()
    [message] = bench.send()
    request = bench.request(message)
    request.send_event("task-started")
    request.send_event("task-succeeded", result="None", runtime=0.3)
    request.send_event("task-sent")  # which is nothing that a worker does
    counts.write()
    row = total()
    assert counted(row) == {"received": 1, "started": 1, "succeeded": 1}
    assert 0 <= row.wait_seconds < 60
    assert (sum(row.wait_buckets), row.run_seconds, row.run_buckets[BOUNDS.index(0.5)]) == (1, 0.3, 1)


@pytest.mark.parametrize(
    ("outcome", "counter"),
    [(Snooze(5), "snoozed"), (Cancelled(), "revoked"), (Ignore("duplicate"), "duplicates"), (Ignore("done"), None)],
)
def test_what_an_attempt_ignores_is_counted_by_its_reason(
    bench: Bench, outcome: Exception, counter: str | None
) -> None:
    lab_nothing.delay()
    [message] = bench.send()
    meter.ignored(bench.request(message), outcome)
    counts.write()
    assert counted(total()) == {"received": 1, **({counter: 1} if counter else {})}


WHAT_BECOMES_OF_IT = pytest.mark.parametrize(
    ("crashes_allowed", "is_cancelled", "counter"),
    [(1, False, "retried"), (0, False, "failed"), (1, True, "revoked")],
)


@WHAT_BECOMES_OF_IT
def test_a_lost_process_is_counted_by_what_becomes_of_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, crashes_allowed: int, is_cancelled: bool, counter: str
) -> None:
    monkeypatch.setattr(rescue, "crashes_allowed", lambda _: crashes_allowed)
    job_id = UUID(lab_nothing.delay().id)
    [message] = bench.send()
    ledger.claim({job_id: 0}, lease.worker_id())
    if is_cancelled:
        ledger.cancel(job_id)
    bench.request(message).on_failure(worker_lost())
    counts.write()
    assert counted(total()) == {"received": 1, counter: 1}


@WHAT_BECOMES_OF_IT
def test_a_lost_database_is_counted_by_what_becomes_of_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, crashes_allowed: int, is_cancelled: bool, counter: str
) -> None:
    def lose_the_database() -> None:
        if is_cancelled:
            ledger.cancel(job_id)
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(rescue, "crashes_allowed", lambda _: crashes_allowed)
    monkeypatch.setattr(lab_nothing, "run", lose_the_database)
    job_id = UUID(lab_nothing.delay().id)
    assert counted_by_the_main_process(bench) == {"received": 1, counter: 1}


def test_a_lost_database_whose_job_is_another_attempt_s_by_now_is_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_job_and_the_database() -> None:
        rescue.crashed(job_id, Failure.worker_lost())
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(lab_nothing, "run", lose_the_job_and_the_database)
    job_id = UUID(lab_nothing.delay().id)
    assert counted_by_the_main_process(bench) == {"received": 1}


def test_a_job_that_its_task_rejected_is_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject() -> None:
        raise Reject("no use")

    monkeypatch.setattr(lab_nothing, "run", reject)
    lab_nothing.delay()
    assert counted_by_the_main_process(bench) == {"received": 1, "failed": 1}


def counted_by_the_main_process(bench: Bench) -> dict[str, int]:
    """Of the one message that there is, by what its child tells it through a pipe."""
    [message] = bench.send()
    told = pickle.loads(pickle.dumps(bench.deliver(message).retval))
    bench.request(message).on_failure(told)
    counts.write()
    return counted(total())


def test_a_lost_process_whose_job_has_ended_by_now_is_not_counted(bench: Bench) -> None:
    job_id = UUID(lab_nothing.delay().id)
    [message] = bench.send()
    ledger.succeed(job_id, claim(job_id))
    bench.request(message).on_failure(worker_lost())
    counts.write()
    assert counted(total()) == {"received": 1}


def test_a_lost_process_that_the_ledger_cannot_be_told_of_is_a_retry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(rescue, "crashed", away)
    lab_nothing.delay()
    [message] = bench.send()
    bench.request(message).on_failure(worker_lost())
    counts.write()
    assert counted(total()) == {"received": 1, "retried": 1}


def lose_the_worker() -> None:
    raise WorkerLostError("killed")


def worker_lost() -> ExceptionInfo:
    try:
        lose_the_worker()
    except WorkerLostError:
        return ExceptionInfo()


def test_a_job_that_its_dead_workers_have_ended_is_a_failure(
    bench: Bench, no_grace_after_a_restart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "crashes_allowed", lambda _: 1)
    job_id = UUID(lab_nothing.delay().id)
    for _ in range(2):
        ledger.begin(job_id, claim(job_id))
        rescue.hand_on_expired()
        ledger.hurry([job_id])
    counts.write()
    assert counted(total()) == {"rescued": 2, "failed": 1}


def test_a_message_of_another_producer_has_no_due_time_and_no_wait(bench: Bench) -> None:
    lab_nothing.delay()
    [message] = bench.send()
    del message.headers["due"]
    bench.request(message).send_event("task-started")
    counts.write()
    assert sum(total().wait_buckets) == 0


def test_a_relay_counts_what_it_sends(bench: Bench, valkey: Any) -> None:
    from apps.jobs.relay import Relay

    lab_nothing.delay_many([{}, {}])
    Relay(current_app).publish_due()
    counts.write()
    assert counted(total()) == {"sent": 2}
