"""What the worker's main process does with what it has fetched, and with what has succeeded."""

import gc
import math
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import ANY, Mock
from uuid import uuid4

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import chain, current_app, shared_task
from celery.app.trace import trace_task
from celery.worker import state
from django.db import OperationalError, ProgrammingError
from django.utils import timezone
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.common import QoS
from kombu.utils.json import dumps

from apps.jobs import ahead, batch, claims, endings, lease, ledger
from apps.jobs.claims import Claims
from apps.jobs.models import Job, QueuePause
from tasks.lab import lab_nothing, lab_nothing_broker_only
from tests.jobs.bench import Bench, Message

ran: list[str] = []


@shared_task(name="test_claims.note", bind=True)
def lab_note(self: Any) -> None:
    ran.append(self.request.id)


class Timer:
    """Celery's, whose time passes when the test says so."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_after(self, seconds: float, action: Callable[..., None], arguments: tuple[Any, ...] = ()) -> None:
        self.due.append((seconds, lambda: action(*arguments)))

    def pass_time(self, seconds: float = 0.0) -> None:
        due = [action for after, action in self.due if after <= seconds]
        self.due = [entry for entry in self.due if entry[0] > seconds]
        for action in due:
            action()


class Main:
    """A worker's main process, whose pool starts nothing by itself."""

    def __init__(self, bench: Bench, pool: str) -> None:
        self.bench = bench
        self.timer = Timer()
        self.started: list[Any] = []
        controller = Mock()
        controller.pool_cls.__module__ = f"celery.concurrency.{pool}"
        self.slots: Any = LaxBoundedSemaphore(1)
        controller.semaphore = self.slots
        self.qos = QoS(Mock(), 2)
        consumer = SimpleNamespace(
            controller=controller, timer=self.timer, qos=self.qos, pool=SimpleNamespace(num_processes=2)
        )
        self.claims = Claims(consumer, self.started.append)
        endings.batch.timer = lease._this.timer = self.timer

    def fetch(self, messages: list[Message]) -> list[Any]:
        requests = [self.bench.request(message) for message in messages]
        for request in requests:
            state.task_reserved(request)
            self.claims.on_task_request(request)
        return requests

    def run(self, request: Any, runtime: float = 0.0) -> None:
        """In a child, which reports a success."""
        request._apply_result = lambda: None
        state.task_accepted(request)
        args, kwargs, embed = request._payload
        headers = {**request.request_dict, **embed, "is_eager": False}
        trace_task(current_app.tasks[request.name], request.id, args, kwargs, headers, app=current_app)
        request.on_success((False, "None", runtime))


@pytest.fixture
def main(bench: Bench) -> Iterator[Main]:
    ahead.runtimes.mean = None
    yield Main(bench, "prefork")
    endings.batch.items.clear()
    endings.batch.due = -math.inf
    state.reset_state()


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """How many jobs each call of this statement was for."""
    sizes: list[int] = []
    statement = getattr(ledger, name)

    def count(jobs: Any, *others: Any) -> Any:
        sizes.append(len(jobs))
        return statement(jobs, *others)

    monkeypatch.setattr(ledger, name, count)
    return sizes


def away(*_: object) -> None:
    raise OperationalError("the server is away")


def test_what_came_together_is_claimed_in_one_statement_before_any_of_it_starts(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted(monkeypatch, "claim")
    lab_nothing.delay_many([{}] * 5)
    requests = main.fetch(bench.send())
    assert main.started == []
    main.timer.pass_time()
    assert sizes == [5]
    assert main.started == requests
    assert [request.token for request in requests] == [1] * 5
    assert set(Job.objects.values_list("state", "worker_id")) == {("running", lease.worker_id())}


def test_what_came_together_sets_one_timer(main: Main, bench: Bench) -> None:
    """Celery's loop fires ten timers in a turn, and sleeps while more of them are due."""
    lab_nothing.delay_many([{}] * 5)
    main.fetch(bench.send())
    assert len(main.timer.due) == 1


def test_a_timer_that_was_lost_is_set_again(main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a connection to the broker some are cancelled."""
    lab_nothing.delay_many([{}] * 2)
    first, second = bench.send()
    main.fetch([first])
    main.timer.due.clear()
    monkeypatch.setattr(batch, "LATE", 0.0)
    requests = main.fetch([second])
    main.timer.pass_time()
    assert main.started[-1:] == requests


def test_a_duplicate_a_cancelled_a_paused_and_an_expired_job_never_reach_the_pool(main: Main, bench: Bench) -> None:
    done, cancelled = lab_nothing.delay(), lab_nothing.delay()
    paused = lab_nothing.apply_async(queue="low")
    expired = lab_nothing.apply_async(expires=60)
    messages = bench.send()
    bench.deliver(next(message for message in messages if message.headers["id"] == done.id))
    ledger.cancel(bench.job(cancelled).pk)
    QueuePause.objects.create(queue="low")
    Job.objects.filter(pk=expired.id).update(expires_at=timezone.now())
    requests = main.fetch(messages)
    main.timer.pass_time()
    assert main.started == []
    assert all(request.acknowledged for request in requests)
    assert bench.job(done).attempts == 1
    assert bench.job(paused).state == Job.State.QUEUED
    assert bench.letter(expired).kind == "expired"


def test_a_second_message_of_the_same_job_is_dropped_though_it_came_with_the_first(main: Main, bench: Bench) -> None:
    lab_nothing.delay()
    first, second = main.fetch(bench.send() * 2)
    main.timer.pass_time()
    main.timer.pass_time()
    assert main.started == [first]
    assert second.acknowledged
    assert not first.acknowledged


def test_a_message_cannot_claim_its_job_by_itself(bench: Bench) -> None:
    lab_nothing.delay()
    [message] = bench.send()
    message.headers.update(token=7, ends_here=True)
    request = bench.request(message)
    assert request.token is None
    assert "ends_here" not in request.request_dict


def test_while_the_database_is_away_what_was_fetched_waits(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay()
    requests = main.fetch(bench.send())
    with monkeypatch.context() as database:
        database.setattr(ledger, "claim", away)
        database.setattr("apps.jobs.batch.connection", Mock())
        main.timer.pass_time()
    assert main.started == []
    main.timer.pass_time(2)
    assert main.started == requests


def test_a_job_that_no_process_was_free_for_is_handed_back_uncounted(main: Main, bench: Bench) -> None:
    jobs = [lab_nothing.delay() for _ in range(2)]
    started, late = main.fetch(bench.send())
    main.timer.pass_time()
    started._apply_result = lambda: None
    main.timer.pass_time(claims.WAIT_AT_MOST)
    states = {str(job.pk): (job.state, job.attempts) for job in map(bench.job, jobs)}
    assert states[late.id] == (Job.State.QUEUED, 0)
    assert states[started.id] == (Job.State.RUNNING, 1)
    assert late.acknowledged
    assert late.revoked()  # so the pool does not start it when it has a process


def test_behind_a_job_in_the_main_loop_only_what_was_claimed_long_ago_and_has_not_begun_is_handed_back(
    bench: Bench,
) -> None:
    main = Main(bench, "solo")
    lab_nothing.delay_many([{}] * 3)
    running, fresh, stuck = main.fetch(bench.send())
    main.timer.pass_time()
    running.on_accepted(1, time.monotonic())
    for request in (running, stuck):
        request.request_dict["claimed_at"] -= 60
    lease.let_go_of_stuck()
    states = [Job.objects.get(pk=request.job_id).state for request in (running, fresh, stuck)]
    assert states == [Job.State.RUNNING, Job.State.RUNNING, Job.State.QUEUED]
    state.task_ready(running)
    main.timer.pass_time(claims.WAIT_AT_MOST)
    assert stuck.acknowledged
    assert Job.objects.get(pk=stuck.job_id).attempts == 0
    state.reset_state()


def test_a_broker_only_job_that_no_process_was_free_for_goes_back_to_its_queue(main: Main, bench: Bench) -> None:
    [request] = main.fetch([broker_only_message()])
    main.timer.pass_time()
    assert main.started == [request]
    main.timer.pass_time(claims.WAIT_AT_MOST)
    request.message.reject_log_error.assert_called_once_with(ANY, ANY, requeue=True)
    assert request.revoked()


def test_a_broker_only_job_does_not_wait_for_the_database(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "claim", away)
    monkeypatch.setattr("apps.jobs.batch.connection", Mock())
    lab_nothing.delay()
    _, request = main.fetch([*bench.send(), broker_only_message()])
    main.timer.pass_time()
    assert main.started == [request]


def test_what_is_handed_back_is_not_passed_over_by_one_call_within_the_other(main: Main, bench: Bench) -> None:
    """When a slot is free Celery asks all of them, and Python has enough of it after some hundred: the worker exits."""
    main.slots.acquire(Mock())
    main.slots.acquire(another := Mock())
    main.claims.start = partial(main.slots.acquire, main.started.append)
    lab_nothing.delay()
    requests = main.fetch([*bench.send(), *(broker_only_message() for _ in range(3))])
    main.timer.pass_time()
    assert len(main.slots._waiting) == 1 + len(requests)
    main.timer.pass_time(claims.WAIT_AT_MOST)
    assert list(main.slots._waiting) == [(another, (), {})]
    main.slots.release()
    another.assert_called_once_with()


def broker_only_message() -> Message:
    job_id = str(uuid4())
    headers = {"task": lab_nothing_broker_only.name, "id": job_id, "root_id": job_id, "retries": 0}
    return Message(headers, dumps([[], {}, {}]), "default")


def test_what_was_not_started_when_the_broker_was_lost_is_handed_back(main: Main, bench: Bench) -> None:
    job = lab_nothing.delay()
    main.fetch(bench.send())
    main.timer.pass_time()
    claims.hand_back(claims.waiting())
    assert (bench.job(job).state, bench.job(job).attempts) == (Job.State.QUEUED, 0)


def test_what_cannot_be_handed_back_while_a_deploy_migrates_frees_its_slots_all_the_same(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    monkeypatch.setattr("apps.jobs.rescue.release", _lack_a_column)
    monkeypatch.setattr("apps.jobs.claims.connection", Mock())
    main.timer.pass_time(claims.WAIT_AT_MOST)
    assert request.acknowledged


def test_what_a_process_was_given_when_the_broker_was_lost_is_not(main: Main, bench: Bench) -> None:
    lab_nothing.delay_many([{}] * 2)
    given, waiting = main.fetch(bench.send())
    main.timer.pass_time()
    given._apply_result = lambda: Mock(_write_to=Mock())
    waiting._apply_result = lambda: Mock(_write_to=None)
    assert claims.waiting() == [waiting]


def test_a_pool_of_threads_runs_all_that_it_was_given(main: Main, bench: Bench) -> None:
    lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    request._apply_result = lambda: None  # a weak reference, to what nobody keeps
    assert claims.waiting() == []


def test_what_was_not_claimed_when_the_broker_was_lost_is_not_claimed_after_it(main: Main, bench: Bench) -> None:
    job = lab_nothing.delay()
    main.fetch([*bench.send(), broker_only_message()])
    main.claims.forget()
    main.timer.pass_time()
    assert main.started == []
    assert bench.job(job).state == Job.State.SENT


def test_successes_are_written_in_one_statement_and_acknowledged_only_then(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted(monkeypatch, "succeed_many")
    lab_nothing.delay_many([{}] * 3)
    requests = main.fetch(bench.send())
    main.timer.pass_time()
    for request in requests:
        main.run(request)
    assert not any(request.acknowledged for request in requests)
    assert not Job.objects.exclude(state=Job.State.RUNNING).exists()
    main.timer.pass_time(endings.WITHIN)
    assert sizes == [3]
    assert all(request.acknowledged for request in requests)
    assert not Job.objects.exclude(state=Job.State.SUCCEEDED).exists()


def test_successes_are_written_at_once_when_no_more_wait_for_the_pool_than_have_ended(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their slots are what more can be fetched for."""
    sizes = counted(monkeypatch, "succeed_many")
    lab_nothing.delay_many([{}] * 4)
    requests = main.fetch(bench.send())
    main.timer.pass_time()
    main.run(requests[0])
    main.timer.pass_time()
    assert sizes == []
    main.run(requests[1])
    main.run(requests[2])
    main.timer.pass_time()
    assert sizes == [3]


def test_a_timer_whose_batch_was_written_sooner_does_not_cut_the_next_one_short(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = counted(monkeypatch, "succeed_many")
    lab_nothing.delay_many([{}] * 8)
    requests = main.fetch(bench.send())
    main.timer.pass_time()
    for request in requests[:5]:
        main.run(request)
    main.timer.pass_time()
    assert sizes == [5]
    main.run(requests[5])
    [of_the_five, _] = [entry for entry in main.timer.due if entry[0] <= endings.WITHIN]
    main.timer.due = [of_the_five]
    main.timer.pass_time(endings.WITHIN)
    assert sizes == [5]


def test_a_job_that_waited_for_a_process_has_started_when_its_body_did(main: Main, bench: Bench) -> None:
    job = lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    Job.objects.update(started_at=timezone.now() - timedelta(seconds=60))
    main.run(request, runtime=1.5)
    main.timer.pass_time(endings.WITHIN)
    row = bench.job(job)
    assert row.started_at
    assert row.finished_at
    assert (row.finished_at - row.started_at).total_seconds() == pytest.approx(1.5, abs=0.2)


def test_a_success_that_the_database_does_not_take_is_kept_and_its_lease_renewed(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    main.run(request)
    with monkeypatch.context() as database:
        database.setattr(ledger, "succeed_many", away)
        database.setattr("apps.jobs.batch.connection", Mock())
        main.timer.pass_time(endings.WITHIN)
    assert endings.not_written_yet() == [bench.job(job).pk]
    Job.objects.update(lease_until=timezone.now())
    lease.renew_leases()
    assert bench.job(job).lease_until > timezone.now()  # type: ignore[operator]
    assert not request.acknowledged
    main.timer.pass_time(2)
    assert request.acknowledged
    assert bench.job(job).state == Job.State.SUCCEEDED


def test_a_job_whose_worker_stood_still_between_claim_and_start_is_not_begun(main: Main, bench: Bench) -> None:
    """SIGSTOP for longer than a lease: another worker has the job by the time this one wakes up."""
    result = lab_note.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    request.request_dict["claimed_at"] -= 60
    Job.objects.update(token=2)
    main.run(request)
    assert ran == []
    assert (bench.job(result).state, bench.job(result).token) == (Job.State.RUNNING, 2)


def test_a_message_that_cannot_be_settled_does_not_keep_the_others_from_starting(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, others = lab_nothing.delay(), lab_nothing.delay_many([{}] * 2)
    messages = bench.send()
    messages.sort(key=lambda message: message.headers["id"] != done.id)
    bench.deliver(messages[0])
    requests = main.fetch(messages)
    monkeypatch.setattr(ledger, "refuse", _break)
    monkeypatch.setattr("apps.jobs.claims.connection", Mock())
    main.timer.pass_time()
    assert {request.id for request in main.started} == set(others)
    assert not requests[0].acknowledged
    main.timer.pass_time(lease.REQUEUE_AFTER)
    requests[0].message.reject_log_error.assert_called_once_with(ANY, (OSError,), requeue=True)


def _break(*_: object) -> None:
    raise ZeroDivisionError


def test_a_table_that_code_is_too_new_for_keeps_what_was_fetched(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay()
    requests = main.fetch(bench.send())
    with monkeypatch.context() as deploy:
        deploy.setattr(ledger, "claim", _lack_a_column)
        deploy.setattr("apps.jobs.batch.connection", Mock())
        main.timer.pass_time()
    assert main.started == []
    main.timer.pass_time(1)
    assert main.started == requests


def test_what_cannot_be_claimed_for_any_other_reason_is_kept_and_the_error_is_not_hidden(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay()
    requests = main.fetch(bench.send())
    with monkeypatch.context() as trouble:
        trouble.setattr(ledger, "claim", _break)
        with pytest.raises(ZeroDivisionError):
            main.timer.pass_time()
    assert main.started == []
    main.timer.pass_time(1)
    assert main.started == requests


def test_a_job_that_cannot_be_started_is_handed_back_and_the_others_start_once(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay_many([{}] * 3)
    requests = main.fetch(bench.send())

    def start(request: Any) -> None:
        main.started.append(request)
        if request is requests[1]:
            _break()

    monkeypatch.setattr(main.claims, "start", start)
    main.timer.pass_time()
    for request in (requests[0], requests[2]):
        request._apply_result = lambda: None
    main.timer.pass_time(claims.WAIT_AT_MOST)
    assert main.started == requests
    assert Job.objects.get(state=Job.State.QUEUED).pk == requests[1].job_id
    assert requests[1].acknowledged


def test_a_success_that_celery_cannot_be_told_of_keeps_no_other_from_it(main: Main, bench: Bench) -> None:
    lab_nothing.delay_many([{}] * 2)
    requests = main.fetch(bench.send())
    main.timer.pass_time()
    told = Mock(side_effect=ZeroDivisionError)
    endings.write_soon(endings.Ending(requests[0].job_id, 1, 0.0, told))
    main.run(requests[1])
    main.timer.pass_time(endings.WITHIN)
    assert requests[1].acknowledged
    assert endings.not_written_yet() == []
    told.assert_called_once_with()


def test_a_letter_that_cannot_be_written_while_a_deploy_migrates_keeps_its_message_for_later(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    [request] = main.fetch([broker_only_message()])
    monkeypatch.setattr("apps.jobs.dead_letters.write_for_request", _lack_a_column)
    request.on_failure(raised(ValueError("the body's own")))
    assert request not in state.reserved_requests
    assert [after for after, _ in main.timer.due].count(lease.REQUEUE_AFTER) == 1


def test_a_lost_child_that_cannot_be_told_of_while_a_deploy_migrates_frees_its_slot(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    monkeypatch.setattr("apps.jobs.rescue.crashed", _lack_a_column)
    request.on_failure(raised(WorkerLostError("killed")))
    assert request.acknowledged


def raised(exc: Exception) -> ExceptionInfo:
    try:
        _raise(exc)
    except type(exc):
        return ExceptionInfo()


def _raise(exc: Exception) -> NoReturn:
    raise exc


def _lack_a_column(*_: object) -> None:
    raise ProgrammingError('column "of_tomorrow" does not exist')


def test_a_stop_writes_what_succeeded(main: Main, bench: Bench) -> None:
    job = lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    main.run(request)
    endings.write_all()
    assert bench.job(job).state == Job.State.SUCCEEDED


def test_a_request_that_has_ended_is_no_work_for_the_collector(main: Main, bench: Bench) -> None:
    lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    main.started.clear()
    main.run(request)
    main.timer.pass_time(endings.WITHIN)
    assert request.acknowledged
    ended = weakref.ref(request)
    gc.disable()
    try:
        del request
        assert ended() is None
    finally:
        gc.enable()


def test_a_success_that_another_worker_has_taken_over_changes_nothing(main: Main, bench: Bench) -> None:
    job = lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    Job.objects.update(token=2)
    main.run(request)
    main.timer.pass_time(endings.WITHIN)
    assert bench.job(job).state == Job.State.RUNNING
    assert request.acknowledged


@pytest.mark.parametrize(
    "ask",
    [
        lambda: lab_nothing.apply_async(ignore_result=False),
        lambda: lab_nothing.apply_async(link=lab_nothing.si()),
        lambda: chain(lab_nothing.si(), lab_nothing.si()).apply_async(),
    ],
)
def test_a_success_that_is_more_than_that_is_written_by_the_child(
    main: Main, bench: Bench, ask: Callable[[], Any]
) -> None:
    ask()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    assert request.token == 1
    assert "ends_here" not in request.request_dict
    main.run(request)
    assert Job.objects.get(pk=request.job_id).state == Job.State.SUCCEEDED
    assert request.acknowledged


def test_in_a_pool_of_threads_jobs_are_claimed_together_and_end_by_themselves(bench: Bench) -> None:
    main = Main(bench, "thread")
    lab_nothing.delay()
    [request] = main.fetch(bench.send())
    main.timer.pass_time()
    assert request.token == 1
    assert "ends_here" not in request.request_dict


def test_a_worker_of_short_jobs_fetches_ahead_and_one_of_long_jobs_does_not(main: Main, bench: Bench) -> None:
    for runtime, expected in [(0.0001, 64), (0.01, 8), (1.0, 0)]:
        ahead.runtimes.mean = runtime
        main.claims.ahead.adjust(allowed=True)
        assert main.qos.value == 2 + expected


def test_a_job_that_takes_unexpectedly_long_ends_fetching_ahead(main: Main, bench: Bench) -> None:
    ahead.runtimes.mean = 0.001
    lab_nothing.delay()
    main.fetch(bench.send())
    main.timer.pass_time()
    assert main.qos.value > 2
    main.timer.pass_time(claims.WAIT_AT_MOST)
    assert main.qos.value == 2


def test_losing_the_database_while_refusing_brings_the_message_back_later(
    main: Main, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lab_nothing.delay()
    messages = bench.send()
    ledger.cancel(bench.job(job).pk)
    [request] = main.fetch(messages)
    with monkeypatch.context() as database:
        database.setattr(ledger, "refuse", away)
        database.setattr("apps.jobs.claims.connection", Mock())
        main.timer.pass_time()
    assert not request.acknowledged
    assert request not in state.reserved_requests  # nor is a lease renewed for it
    main.timer.pass_time(lease.REQUEUE_AFTER)
    request.message.reject_log_error.assert_called_once_with(ANY, (OSError,), requeue=True)
