"""Pause, resume, and how long a queue is."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from apps.jobs import ledger, queues
from apps.jobs.models import Job, QueuePause
from tasks.lab import lab_add, lab_nothing
from tests.jobs.bench import Bench
from tests.jobs.sessions import Session


def test_a_paused_queues_jobs_stay_queued(bench: Bench) -> None:
    queues.pause("default", reason="the supplier is down")
    result = lab_nothing.delay()
    assert bench.run_due() == 0
    assert bench.job(result).state == Job.State.QUEUED
    assert queues.resume("default")
    assert bench.run_due() == 1


def test_other_queues_go_on(bench: Bench) -> None:
    queues.pause("default")
    lab_nothing.apply_async(queue="low")
    assert bench.run_due() == 1


def test_a_message_on_its_way_is_put_back_by_the_worker(bench: Bench) -> None:
    result = lab_nothing.delay()
    [message] = bench.send()
    queues.pause("default")
    bench.deliver(message)
    assert (bench.job(result).state, bench.job(result).attempts) == (Job.State.QUEUED, 0)
    queues.resume("default")
    assert bench.run_due() == 1
    assert bench.job(result).state == Job.State.SUCCEEDED


@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_here_before_its_relay_has_committed_is_put_back_too() -> None:
    """It was dropped, as one of a job that was never sent; and then the job was sent, without a message."""
    job_id = UUID(lab_nothing.delay().id)
    relay, worker = Session(), Session()
    try:
        relay.begin()
        with relay.current():
            assert ledger.take_due(["default"], 10)
        queues.pause("default")
        with worker.current(), pytest.raises(OperationalError, match="lock timeout"):
            ledger.refuse(job_id)
        relay.commit()
        with worker.current():
            assert ledger.refuse(job_id) == "paused"
    finally:
        relay.close()
        worker.close()
    assert Job.objects.get(pk=job_id).state == Job.State.QUEUED


def test_a_message_that_was_refused_in_a_pauses_last_moment_is_put_back_as_well(bench: Bench) -> None:
    job = bench.job(lab_nothing.delay())
    bench.send()
    queues.pause("default")
    assert ledger.claim({job.pk: 0}, None) == {}
    queues.resume("default")
    assert ledger.refuse(job.pk) == "paused"
    assert bench.run_due() == 1


def test_a_pause_ends_by_itself(bench: Bench) -> None:
    queues.pause("default", until=timezone.now() + timedelta(hours=1))
    lab_nothing.delay()
    assert bench.run_due() == 0
    QueuePause.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert bench.run_due() == 1


def test_pausing_twice_keeps_the_newer_reason(bench: Bench) -> None:
    queues.pause("default", reason="first")
    queues.pause("default", reason="second")
    assert QueuePause.objects.get().reason == "second"


def test_resuming_what_is_not_paused_changes_nothing(bench: Bench) -> None:
    assert not queues.resume("default")


def test_a_queue_that_does_not_exist_cannot_be_paused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="There is no queue 'hihg'"):
        queues.pause("hihg")


def test_a_paused_queue_does_not_keep_the_relay_awake(bench: Bench) -> None:
    queues.pause("default")
    lab_nothing.delay()
    assert ledger.next_due(["default"]) is None


def test_a_cancelled_job_of_a_paused_queue_never_runs(bench: Bench) -> None:
    queues.pause("default")
    result = lab_nothing.delay()
    ledger.cancel(bench.job(result).pk)
    queues.resume("default")
    assert bench.run_due() == 0


def test_the_status_tells_waiting_later_and_running_apart(bench: Bench) -> None:
    lab_add.delay_many([{"x": 1, "y": 1}] * 3)
    lab_nothing.apply_async(countdown=3600)
    sent = Job.objects.filter(run_at__lte=timezone.now()).latest("created_at")
    bench.send()
    ledger.claim({sent.pk: 0}, None)
    [status] = [status for status in queues.statuses() if status.name == "default"]
    assert (status.waiting, status.later, status.running) == (2, 1, 1)
    assert status.oldest is not None
    assert 0 <= status.oldest < 60


def test_every_known_queue_has_a_status_even_an_empty_one(bench: Bench) -> None:
    assert {"high", "default", "io", "low"} <= {status.name for status in queues.statuses()}


def test_looking_at_the_queues_reads_live_jobs_alone(bench: Bench) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {queues.STATUS}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan" not in plan
    assert all(index in plan for index in ("job_due", "job_sent", "job_lease"))
