"""The worker's bootstep: who we are, that we live, and what we give back."""

import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from celery.worker import state
from django.db import OperationalError, ProgrammingError
from kombu.message import Message

from apps.jobs import endings, lease, ledger, rescue
from apps.jobs.batch import Batch
from apps.jobs.ids import uuid7
from apps.jobs.lease import LeaseStep
from apps.jobs.models import Job, Worker
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench

Step = tuple[LeaseStep, Mock]


@pytest.fixture
def parent() -> Mock:
    """Celery's worker, as far as the step looks at it."""
    parent = Mock(hostname="worker@here", concurrency=4)
    parent.pool_cls.__module__ = "celery.concurrency.prefork"
    parent.app.amqp.queues.consume_from.values.return_value = [Mock()]
    parent.app.amqp.queues.consume_from.values.return_value[0].name = "default"
    parent.pool.num_processes = 4
    return parent


@pytest.fixture
def step(db: None, parent: Mock) -> Iterator[LeaseStep]:
    step = LeaseStep(parent)
    step.start(parent)
    yield step
    lease._this.is_stopping = False
    state.reset_state()


def running(bench: Bench) -> Job:
    """A job that this worker has claimed and works on."""
    job = bench.job(lab_nothing.delay())
    assert ledger.claim({job.pk: 0}, lease.worker_id())
    request = Request(str(job.pk))
    state.task_reserved(request)
    state.active_requests.add(request)
    requests.append(request)
    return job


class Request:
    is_with_pool = False

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.terminate = Mock()


requests: list[Request] = []


def test_a_worker_introduces_itself(step: LeaseStep) -> None:
    row = Worker.objects.get(pk=lease.worker_id())
    assert (row.name, row.pool, row.size, row.queues) == ("worker@here", "prefork", 4, ["default"])


def test_it_renews_three_times_in_a_leases_length(step: LeaseStep, parent: Mock, settings: Any) -> None:
    every = parent.timer.call_repeatedly.call_args.args[0]
    assert every == pytest.approx(settings.JOBS_LEASE.total_seconds() / 3)


def test_it_beats_every_ten_seconds_however_long_a_lease_is(db: None, parent: Mock, settings: Any) -> None:
    settings.JOBS_LEASE = timedelta(minutes=10)
    LeaseStep(parent).start(parent)
    assert parent.timer.call_repeatedly.call_args.args[0] == 10


def test_a_beat_beside_a_job_of_a_solo_pool_touches_the_heartbeat_file_though_the_database_is_away(
    step: LeaseStep, parent: Mock, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.JOBS_HEARTBEAT_FILE = str(tmp_path / "alive")
    monkeypatch.setattr(lease, "renew_leases", _away)
    monkeypatch.setattr("apps.jobs.lease.connection.close", Mock())  # the test's own transaction
    monkeypatch.setattr(lease, "time", Mock(sleep=lambda _: setattr(lease._this, "is_stopping", True)))
    step._keep_beating(parent)
    assert (tmp_path / "alive").exists()


def test_a_heartbeat_file_that_cannot_be_touched_costs_no_lease(
    bench: Bench, step: LeaseStep, parent: Mock, settings: Any, tmp_path: Path
) -> None:
    settings.JOBS_HEARTBEAT_FILE = str(tmp_path / "no such folder" / "alive")
    job = running(bench)
    Job.objects.update(lease_until="2024-02-05T09:00Z")
    step._beat(parent)
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until.year > 2024


def test_a_beat_renews_what_runs_and_says_that_we_live(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    job = running(bench)
    Job.objects.update(lease_until="2024-02-05T09:00Z")
    Worker.objects.update(heartbeat_at="2024-02-05T09:00Z")
    step._beat(parent)
    job.refresh_from_db()
    row = Worker.objects.get(pk=lease.worker_id())
    assert job.lease_until is not None
    assert job.lease_until.year > 2024
    assert (row.heartbeat_at.year > 2024, row.busy) == (True, 1)


def test_a_job_that_began_after_its_connection_was_lost_is_renewed(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    """Celery forgets what it had reserved; a thread of the pool starts it all the same."""
    job = running(bench)
    state.reserved_requests.clear()
    Job.objects.update(lease_until="2024-02-05T09:00Z")
    step._beat(parent)
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until.year > 2024


def test_a_request_of_a_stranger_does_not_end_the_renewals(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    job = running(bench)
    stranger = Request("an id that is no UUID")
    state.reserved_requests.add(stranger)
    Job.objects.update(lease_until="2024-02-05T09:00Z")
    step._beat(parent)
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until.year > 2024


def test_jobs_that_come_and_go_while_another_thread_looks_cost_no_renewal(hasty_threads: None) -> None:
    kept, passing = ([Request(str(uuid7())) for _ in range(64)] for _ in range(2))
    state.reserved_requests.update(kept)
    is_over = threading.Event()

    def main_loop() -> None:
        while not is_over.is_set():
            for change in (state.reserved_requests.add, state.reserved_requests.discard):
                for request in passing:
                    change(request)

    thread = threading.Thread(target=main_loop)
    thread.start()
    try:
        for _ in range(500):
            assert {UUID(request.id) for request in kept} <= set(lease.held_jobs())
    finally:
        is_over.set()
        thread.join()
        state.reset_state()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """They take turns all the time, and so in every place where they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("error", [RuntimeError("not the database's"), OperationalError("away")])
def test_no_error_ends_the_renewals_beside_a_job_of_a_solo_pool(
    step: LeaseStep, parent: Mock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    beats = Mock(side_effect=[error, error, None])
    monkeypatch.setattr(step, "_beat", beats)
    monkeypatch.setattr(lease, "time", Mock(sleep=lambda _: setattr(lease._this, "is_stopping", beats.call_count == 2)))
    step._keep_beating(parent)
    assert beats.call_count == 3


def test_what_a_child_was_given_and_has_not_begun_has_the_same_grace(
    bench: Bench, step: LeaseStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(bench)
    state.active_requests.clear()
    requests[-1].is_with_pool = True
    times = iter([0.0, 0.0, 1_000.0])
    monkeypatch.setattr(lease, "time", Mock(monotonic=lambda: next(times)))
    monkeypatch.setattr(lease, "_stop_cold", stopped := Mock())
    lease._end_grace()
    stopped.assert_called_once_with()


def test_what_waits_for_a_process_keeps_nobody_from_stopping(
    bench: Bench, step: LeaseStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(bench)
    state.active_requests.clear()
    monkeypatch.setattr(lease, "_stop_cold", stopped := Mock())
    lease._end_grace()
    stopped.assert_not_called()


def test_no_error_cuts_the_grace_short(bench: Bench, step: LeaseStep, monkeypatch: pytest.MonkeyPatch) -> None:
    running(bench)
    renewals = Mock(side_effect=[RuntimeError("not the database's"), None])

    def sleep(_: float) -> None:
        if renewals.call_count == 2:
            state.active_requests.clear()

    monkeypatch.setattr(lease, "renew_leases", renewals)
    monkeypatch.setattr(lease, "time", Mock(monotonic=lambda: 0.0, sleep=sleep))
    lease._end_grace()
    assert renewals.call_count == 2


@pytest.mark.parametrize("trouble", [OperationalError("connection refused"), ProgrammingError("no such column")])
def test_a_beat_without_a_database_is_only_missed(
    step: LeaseStep,
    parent: Mock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Exception,
) -> None:
    closed = Mock()
    monkeypatch.setattr(lease, "renew_leases", Mock(side_effect=trouble))
    monkeypatch.setattr("apps.jobs.lease.connection.close", closed)
    step._beat(parent)
    assert "Leases were not renewed" in caplog.text
    closed.assert_called_once()


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> Batch[endings.Ending]:
    """An ending whose timer was lost: with a connection Celery cancels some."""
    batch: Batch[endings.Ending] = Batch(Mock())
    monkeypatch.setattr(endings, "batch", batch)
    batch.timer = Mock()
    batch.add(endings.Ending(uuid7(), 1, 0.0, Mock()), within=0.0)
    return batch


def written(batch: Batch[endings.Ending]) -> Mock:
    assert isinstance(batch.write, Mock)
    return batch.write


def test_a_beat_writes_an_ending_whose_timer_was_lost(
    step: LeaseStep, parent: Mock, unwritten: Batch[endings.Ending]
) -> None:
    [ending] = unwritten.items
    step._beat(parent)
    written(unwritten).assert_not_called()  # its timer may still come
    unwritten.due -= 1
    step._beat(parent)
    written(unwritten).assert_called_once_with([ending])


def test_a_beat_beside_the_main_loop_leaves_it_its_connection(
    step: LeaseStep, parent: Mock, unwritten: Batch[endings.Ending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "renew_leases", _away)
    unwritten.due -= 1
    beat = threading.Thread(target=step._beat, args=(parent,))
    beat.start()
    beat.join()
    written(unwritten).assert_not_called()


def _away() -> list[UUID]:
    raise OperationalError("connection refused")


def test_a_cancelled_job_is_ended_with_its_process(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    job = running(bench)
    ledger.cancel(job.pk)
    step._beat(parent)
    requests[-1].terminate.assert_called_once_with(parent.pool, signal="KILL")


def test_a_second_message_of_a_cancelled_job_does_not_save_it(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    job = running(bench)
    second = Request(str(job.pk))
    state.task_reserved(second)
    state.task_ready(second)
    ledger.cancel(job.pk)
    step._beat(parent)
    requests[-1].terminate.assert_called_once_with(parent.pool, signal="KILL")


def test_without_processes_a_cancelled_job_is_left_to_its_checkpoints(
    bench: Bench, step: LeaseStep, parent: Mock
) -> None:
    parent.pool_cls.__module__ = "celery.concurrency.gevent"
    job = running(bench)
    ledger.cancel(job.pk)
    step._beat(parent)
    requests[-1].terminate.assert_not_called()


def test_stopping_gives_back_what_still_runs_and_counts_nothing(bench: Bench, step: LeaseStep, parent: Mock) -> None:
    job = running(bench)
    step.stop(parent)
    job.refresh_from_db()
    assert (job.state, job.attempts, job.crashes) == (Job.State.QUEUED, 0, 0)
    assert Worker.objects.get(pk=lease.worker_id()).stopped_at is not None
    assert lease.is_stopping()


def test_stopping_without_a_database_leaves_it_to_the_leases(
    step: LeaseStep, parent: Mock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rescue, "release", lambda _: _away())
    step.stop(parent)
    assert "their leases will run out" in caplog.text


def test_stopping_while_a_deploy_migrates_leaves_it_to_the_leases(
    step: LeaseStep, parent: Mock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rescue, "release", Mock(side_effect=ProgrammingError("no such column")))
    step.stop(parent)
    assert "their leases will run out" in caplog.text


def test_a_deploy_that_migrates_does_not_cut_the_grace_short(
    bench: Bench, step: LeaseStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(bench)
    monkeypatch.setattr(rescue, "renew", Mock(side_effect=ProgrammingError("no such column")))
    monkeypatch.setattr(lease, "time", Mock(monotonic=lambda: 0.0, sleep=lambda _: state.active_requests.clear()))
    lease._end_grace()
    assert not lease.is_stopping()


def test_a_deploy_that_migrates_does_not_keep_a_worker_from_stopping_cold(
    bench: Bench, step: LeaseStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(bench)
    monkeypatch.setattr(rescue, "renew", Mock(side_effect=ProgrammingError("no such column")))
    monkeypatch.setattr(lease, "os", system := Mock())
    monkeypatch.setattr(lease, "time", Mock(sleep=lambda _: setattr(lease._this, "has_left", True)))
    monkeypatch.setattr(lease._this, "has_left", False)
    lease._stop_cold()
    system.kill.assert_called_once()


def test_a_message_whose_channel_has_died_since_does_not_cost_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_this", lease.ThisWorker(timer=Mock()))
    message = Message(channel=Mock(basic_reject=Mock(side_effect=ConnectionError("closed"))), delivery_tag="1")
    lease.requeue_later(message, (OSError,))
    [_, give_back] = lease._this.timer.call_after.call_args.args
    give_back()
    message.channel.basic_reject.assert_called_once_with("1", requeue=True)


def test_the_token_is_known_for_our_own_jobs_only(bench: Bench, step: LeaseStep) -> None:
    job = running(bench)
    assert lease.token_of(job.pk) == 1
    Job.objects.update(worker_id=None)
    assert lease.token_of(job.pk) is None


def test_the_lease_outlives_the_connection_to_the_broker() -> None:
    """A step of the worker, not of its consumer, which starts anew with each connection."""
    assert LeaseStep.requires == ("celery.worker.components:Timer",)
