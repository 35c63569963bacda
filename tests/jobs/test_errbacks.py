"""`link_error` of an attempt that fails. Of deaths that no attempt reports, see `test_rescue.py`."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from billiard.einfo import ExceptionInfo
from celery import shared_task
from celery.exceptions import Reject, TimeLimitExceeded
from django.db import OperationalError, ProgrammingError

from apps.jobs import lease, ledger
from apps.jobs.backpressure import QueueFull
from apps.jobs.failures import Failure
from apps.jobs.metrics import counts
from apps.jobs.models import DeadLetter, Job, TaskTotal
from apps.jobs.request import JobRequest
from apps.jobs.task import JobTask
from tasks.lab import lab_add, lab_fail, lab_nothing, lab_nothing_broker_only
from tests.jobs.bench import Bench, claim, record, row

calls: list[Any] = []


@shared_task(name="tests.clean_up")
def clean_up(task_id: str) -> None:
    pass


@shared_task(name="tests.look_at_error")
def look_at_error(request: Any, exc: BaseException, traceback: str) -> None:
    calls.append((request.id, exc, traceback))


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    calls.clear()


def started() -> list[UUID | None]:
    """Whose death each callback was started by."""
    return list(Job.objects.filter(task=clean_up.name).values_list("parent_id", flat=True))


class Broken(Exception):
    pass


@shared_task(name="tests.lose_lease_and_fail", bind=True)
def lose_lease_and_fail(self: JobTask) -> None:
    Job.objects.filter(pk=self.request.id).update(token=99)
    raise Broken("too late")


@shared_task(name="tests.break_")
def break_() -> None:
    raise Broken("It broke.")


@shared_task(name="tests.reject_for_good")
def reject() -> None:
    raise Reject("no", requeue=False)


@pytest.mark.parametrize("task", [lab_fail, reject], ids=["error", "reject"])
def test_the_callback_of_an_attempt_starts_once(bench: Bench, task: JobTask) -> None:
    result = task.apply_async(link_error=clean_up.s())
    bench.run_due()
    assert (bench.job(result).state, started()) == (Job.State.DEAD, [UUID(result.id)])


def test_an_attempt_that_lost_its_lease_starts_no_callback(bench: Bench) -> None:
    result = lose_lease_and_fail.apply_async(link_error=clean_up.s())
    bench.run_due()
    assert (bench.job(result).state, started()) == (Job.State.RUNNING, [])


def test_a_callback_starts_with_the_jobs_end_or_not_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process were killed between the two."""
    monkeypatch.setattr("apps.jobs.ledger.write_letter", Mock(side_effect=OperationalError("the connection was lost")))
    result = lab_fail.apply_async(link_error=clean_up.s())
    with pytest.warns(RuntimeWarning, match="the connection was lost"):
        bench.run_due()
    assert (bench.job(result).state, started()) == (Job.State.RUNNING, [])


def test_a_callback_for_which_the_database_was_away_is_started_with_the_jobs_end_later(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = record(options={"link_error": [clean_up.s()]})
    token, failure = claim(job_id), Failure.worker_lost()
    with monkeypatch.context() as away:
        away.setattr("apps.jobs.task.admit", Mock(side_effect=OperationalError("the connection was lost")))
        with pytest.raises(OperationalError):
            ledger.bury(job_id, token, failure)
    assert row(job_id).state == Job.State.RUNNING
    assert ledger.bury(job_id, token, failure)
    assert started() == [job_id]


def test_a_callback_gets_the_error_that_the_attempt_raised(
    bench: Bench, django_capture_on_commit_callbacks: Any
) -> None:
    result = break_.apply_async(link_error=look_at_error.s())
    with django_capture_on_commit_callbacks(execute=True):
        bench.run_due()
    [(task_id, exc, traceback)] = calls
    assert (task_id, type(exc), str(exc)) == (result.id, Broken, "It broke.")
    assert "in break_" in traceback


def _full(queue: str, jobs: int = 1) -> None:
    raise QueueFull(queue, 0)


@pytest.mark.parametrize(
    ("callback", "exception"),
    [
        (clean_up.s().set(queue="nowhere"), "QueueNotFound"),
        (clean_up.s(1, 2, 3), "TypeError"),
        (clean_up.s().set(priority=40_000), "DataError"),
        (clean_up.s().set(countdown=1e300), "OverflowError"),
        ({"task": clean_up.name, "args": 5}, "TypeError"),
        ({"task": clean_up.name, "kwargs": [1], "options": 7}, "TypeError"),
        ({"task": ["t"], "args": []}, "TypeError"),
        ({"subtask_type": "nonsense"}, "KeyError"),
        ({}, None),
    ],
    ids=[
        "no such queue",
        "wrong arguments",
        "no such priority",
        "a time that never comes",
        "args is a number",
        "kwargs is a list",
        "task is a list",
        "no such signature",
        "empty",
    ],
)
def test_a_callback_that_cannot_start_is_a_letter_and_the_job_has_its_own(
    bench: Bench, callback: Any, exception: str | None
) -> None:
    result = lab_fail.delay()
    Job.objects.update(options={"link_error": [callback]})
    bench.run_due()
    assert (bench.job(result).state, bench.letter(result).task) == (Job.State.DEAD, lab_fail.name)
    letter = DeadLetter.objects.exclude(job_id=result.id).get()
    assert (letter.kind, letter.args[:1]) == (DeadLetter.Kind.DEPENDENCY, [result.id])
    assert exception in (None, letter.exception)


def test_a_callback_whose_queue_is_full_is_a_letter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lab_fail.apply_async(link_error=clean_up.s())
    monkeypatch.setattr("apps.jobs.task.admit", _full)
    bench.run_due()
    assert bench.job(result).state == Job.State.DEAD
    assert DeadLetter.objects.get(task=clean_up.name).exception == "QueueFull"


# --- Time limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def timed_out(bench: Bench) -> JobRequest:
    """What the main process holds of a job whose process it is about to kill."""
    counts._tallies.take()
    lab_nothing.apply_async(link_error=clean_up.s())
    [message] = bench.send()
    request: JobRequest = bench.request(message)
    [token] = ledger.claim({request.job_id: 0}, lease.worker_id()).values()
    request.grant(token, claimed_at=0.0, ends_here=False)
    return request


def raise_time_limit() -> None:
    raise TimeLimitExceeded(1.0)


def time_limit_exceeded() -> ExceptionInfo:
    try:
        raise_time_limit()
    except TimeLimitExceeded:
        return ExceptionInfo()


def test_a_hard_time_limit_starts_the_callback_once_and_counts_once(timed_out: JobRequest) -> None:
    timed_out.on_failure(time_limit_exceeded())  # as billiard does, in this order
    timed_out.on_timeout(soft=False, timeout=1.0)
    counts.write()
    assert (row(timed_out.job_id).state, started()) == (Job.State.DEAD, [timed_out.job_id])
    assert TaskTotal.objects.get(task=lab_nothing.name).failed == 1
    assert timed_out.acknowledged


def test_an_attempt_that_lost_its_lease_before_its_hard_time_limit_starts_and_counts_nothing(
    timed_out: JobRequest,
) -> None:
    Job.objects.update(token=99)
    timed_out.on_failure(time_limit_exceeded())
    timed_out.on_timeout(soft=False, timeout=1.0)
    counts.write()
    assert (row(timed_out.job_id).state, started()) == (Job.State.RUNNING, [])
    assert TaskTotal.objects.get(task=lab_nothing.name).failed == 0
    assert timed_out.acknowledged


# --- What no attempt was made of --------------------------------------------------------------------------------------


def test_a_claim_that_fails_starts_no_callback_while_the_job_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = lab_nothing.apply_async(link_error=clean_up.s())
    monkeypatch.setattr("apps.jobs.ledger.claim", Mock(side_effect=ProgrammingError("no such column")))
    bench.run_due()
    assert (bench.job(result).state, started()) == (Job.State.QUEUED, [])


def test_a_message_of_a_stranger_that_cannot_become_a_row_starts_its_callback(bench: Bench) -> None:
    result = lab_add.apply_async((1, 2), link_error=clean_up.s())
    [message] = bench.send()
    Job.objects.all().delete()
    del message.headers["ledger"]
    bench.deliver(replace(message, queue="a queue of RabbitMQ's own"))
    assert bench.letter(result).task == lab_add.name
    assert started() == [UUID(result.id)]


def test_celery_starts_the_callback_of_a_broker_only_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_nothing_broker_only, "run", break_.run)
    lab_nothing.apply_async(link_error=clean_up.s())
    [message] = bench.send()
    task_id = message.headers["id"]
    Job.objects.all().delete()
    del message.headers["ledger"]
    bench.deliver(replace(message, headers={**message.headers, "task": lab_nothing_broker_only.name}))
    assert started() == [UUID(task_id)]
