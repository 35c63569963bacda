"""`AsyncResult` is a view of the job's row."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, current_app, group, shared_task, states
from celery.app.control import Control
from celery.exceptions import Retry, SoftTimeLimitExceeded, TaskRevokedError
from celery.result import AsyncResult, GroupResult

from apps.jobs import ledger
from apps.jobs.models import Job, Worker
from apps.jobs.task import JobTask
from tasks.lab import lab_add, lab_bad_result, lab_fail, lab_nothing, lab_secret
from tests.jobs.bench import Bench, claim, record, row


@shared_task(name="tests.invent_a_state", bind=True)
def invent_a_state(self: JobTask) -> None:
    self.update_state(state="BREWING", meta={"cups": 2})
    states_seen.append(AsyncResult(self.request.id).state)
    states_seen.append(AsyncResult(self.request.id).info)


states_seen: list[object] = []


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("queued", states.PENDING),
        ("sent", states.PENDING),
        ("running", states.STARTED),
        ("cancelled", states.REVOKED),
    ],
)
def test_each_state_of_a_job_has_one_of_celery(bench: Bench, state: str, shown: str) -> None:
    result = lab_nothing.delay()
    Job.objects.update(state=state, finished_at="2024-02-05T09:00Z" if state == "cancelled" else None)
    assert result.state == shown


def test_a_retry_is_shown_with_its_error(bench: Bench) -> None:
    from tasks.lab import lab_flaky

    result = lab_flaky.delay(failures=1)
    bench.run_due()
    assert result.state == states.RETRY
    assert "Attempt 1" in str(result.info)


@shared_task(name="tests.try_again", bind=True, max_retries=None)
def try_again(self: JobTask, error: bool) -> None:
    raise self.retry(exc=KeyError("k") if error else None)


@pytest.mark.parametrize(("error", "info"), [(True, KeyError), (False, Retry)])
def test_a_retry_is_one_until_it_runs(bench: Bench, error: bool, info: type[Exception]) -> None:
    result = try_again.delay(error)
    bench.run_due()
    assert (result.state, type(result.info)) == (states.RETRY, info)
    ledger.hurry([bench.job(result).pk])
    bench.send()
    assert (result.state, type(result.info)) == (states.RETRY, info)


def test_a_result_knows_the_call_and_shows_no_secret(bench: Bench) -> None:
    result = lab_secret.apply_async(("open sesame",), {"fail": False}, queue="low")
    worker = Worker.objects.create(name="low@host", pid=1)
    Job.objects.update(worker=worker, retries=2)
    assert (result.name, result.args, result.kwargs) == (lab_secret.name, [], {"token": "***", "fail": False})
    assert (result.worker, result.retries, result.queue) == ("low@host", 2, "low")


def test_the_traceback_is_the_tasks(bench: Bench) -> None:
    result = lab_fail.delay("broken")
    bench.run_due()
    assert "lab_fail" in result.traceback


class Failure(Exception):
    """A task's own."""


def refuse_key() -> None:
    raise KeyError("k")


def run_out_of_time() -> None:
    raise SoftTimeLimitExceeded


def fail_by_itself() -> None:
    raise Failure("f")


class OfTwo(Exception):
    """It cannot be made of its message alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_with_two() -> None:
    raise OfTwo("a", "b")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (refuse_key, KeyError),
        (run_out_of_time, SoftTimeLimitExceeded),
        (fail_by_itself, Failure),
        (fail_with_two, Exception),
    ],
)
def test_whoever_reads_a_failed_result_can_catch_its_error(
    bench: Bench, body: Callable[[], None], expected: type[Exception]
) -> None:
    result = shared_task(name=f"tests.{body.__name__}")(body).delay()
    bench.run_all()
    with pytest.raises(expected) as caught:
        result.get()
    assert type(caught.value).__name__ == bench.job(result).errors[0]["exception"]


def test_a_result_is_kept_where_someone_reads_it(bench: Bench) -> None:
    kept, dropped = lab_add.delay(1, 2), lab_add.apply_async((1, 2), ignore_result=True)
    bench.run_all()
    assert (kept.get(), dropped.get()) == (3, None)


@shared_task(name="tests.return_what_nobody_reads")
def return_what_nobody_reads() -> object:
    return object()


def test_a_result_that_nobody_reads_is_dropped_whatever_it_is(bench: Bench) -> None:
    result = return_what_nobody_reads.delay()
    bench.run_all()
    job = bench.job(result)
    assert (job.state, job.result) == (Job.State.SUCCEEDED, None)


def test_a_result_that_is_no_json_is_a_dead_letter(bench: Bench) -> None:
    result = lab_bad_result.delay()
    bench.run_all()
    letter = bench.letter(result)
    assert letter.kind == "bad_result"
    assert "tasks.lab_bad_result" in letter.message


@pytest.mark.parametrize("value", [float("nan"), "a\x00b"])
def test_a_result_that_postgresql_cannot_store_is_a_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(lab_bad_result, "run", lambda: value)
    result = lab_bad_result.delay()
    bench.run_all()
    assert bench.letter(result).kind == "bad_result"


@pytest.mark.django_db(transaction=True)
def test_a_state_that_a_task_invents_is_shown_while_it_runs(bench: Bench) -> None:
    states_seen.clear()
    result = invent_a_state.delay()
    bench.run_all()
    assert states_seen == ["BREWING", {"cups": 2}]
    assert result.state == states.SUCCESS


@shared_task(name="tests.speak_for_another", bind=True)
def speak_for_another(self: JobTask, job_id: str) -> None:
    self.update_state(task_id=job_id, state="BREWING", meta={"cups": 2})


@pytest.mark.parametrize("known", [True, False])
def test_what_a_task_says_of_another_job_is_dropped_and_does_not_stop_it(bench: Bench, known: bool) -> None:
    another = record() if known else uuid4()
    if known:
        claim(another)
        Job.objects.filter(pk=another).update(token=9)
    result = speak_for_another.delay(str(another))
    bench.run_all()
    assert (bench.job(result).state, bench.job(result).crashes) == (Job.State.SUCCEEDED, 0)
    assert AsyncResult(str(another)).state == (states.STARTED if known else states.PENDING)


@pytest.mark.django_db(transaction=True)
def test_progress_is_shown_as_celery_users_know_it(bench: Bench) -> None:
    result = lab_nothing.delay()
    job_id = bench.job(result).pk
    ledger.report(job_id, claim(job_id), {"done": 3, "total": 10})
    assert (result.state, result.info) == ("PROGRESS", {"done": 3, "total": 10})


def test_the_links_of_a_chain_are_children_as_in_celery(bench: Bench) -> None:
    last = chain(lab_add.s(1, 1), lab_add.s(2)).apply_async()
    bench.run_all()
    first = last.parent
    assert [child.get() for child in first.children] == [4]
    assert [value for _, value in first.collect()] == [2, 4]


def test_forget_keeps_the_row(bench: Bench) -> None:
    result = lab_add.delay(1, 2)
    bench.run_all()
    result.forget()
    assert bench.job(result).state == Job.State.SUCCEEDED


def test_a_group_is_not_saved_and_says_what_to_do_instead(bench: Bench) -> None:
    result = group(lab_add.s(1, 1), lab_add.s(2, 2)).apply_async()
    with pytest.raises(NotImplementedError, match="Keep the ids"):
        result.save()
    with pytest.raises(NotImplementedError, match="Keep the ids"):
        GroupResult.restore(result.id)
    bench.run_all()
    assert GroupResult(result.id, [AsyncResult(part.id) for part in result]).get() == [2, 4]


def test_an_unknown_id_is_pending_as_in_celery(db: None) -> None:
    assert AsyncResult("never-heard-of").state == states.PENDING


def test_revoke_of_a_cancelled_job_raises_when_it_is_read(bench: Bench) -> None:
    result = lab_nothing.delay()
    ledger.cancel(bench.job(result).pk)
    with pytest.raises(TaskRevokedError, match="cancelled"):
        result.get()


def test_a_retry_that_was_revoked_is_no_error_of_the_task(bench: Bench) -> None:
    result = try_again.delay(error=True)
    bench.run_due()
    ledger.cancel(bench.job(result).pk)
    with pytest.raises(TaskRevokedError, match="cancelled"):
        result.get()
    assert (result.state, result.traceback) == (states.REVOKED, None)


# --- Revoke -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broadcasts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Celery would tell the workers."""
    told: list[Any] = []
    monkeypatch.setattr(Control, "broadcast", lambda _self, _command, arguments=None, **_: told.append(arguments))
    return told


def test_revoke_cancels_a_job_that_waits_for_good(bench: Bench, broadcasts: list[Any]) -> None:
    result = lab_nothing.delay()
    [message] = bench.send()
    result.revoke()
    assert (result.state, broadcasts) == (states.REVOKED, [])
    bench.deliver(message)
    assert bench.job(result).state == Job.State.CANCELLED


def test_revoke_asks_a_running_job_to_stop(bench: Bench, broadcasts: list[Any]) -> None:
    job_id = record()
    claim(job_id)
    current_app.control.revoke([str(job_id)], terminate=True)
    assert row(job_id).cancel_requested


def test_revoke_of_a_broker_only_job_is_celerys_own(bench: Bench, broadcasts: list[Any]) -> None:
    durable, stranger = record(), uuid4()
    current_app.control.revoke([str(durable), str(stranger)])
    assert row(durable).state == Job.State.CANCELLED
    assert [told["task_id"] for told in broadcasts] == [[str(stranger)]]
