"""The worker without a broker: one step at a time in this process, and killed, stopped and overrun as a real one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import pytest
from celery import chain, current_app
from celery.result import AsyncResult
from django.conf import settings
from django.db import OperationalError, connection
from django.db.models.functions import Now

from apps.jobs import lease, ledger, pull, queues, rescue
from apps.jobs.ledger import NewJob
from apps.jobs.metrics import counts
from apps.jobs.models import DeadLetter, Job, TaskTotal, Worker
from apps.jobs.work import Work
from apps.local.children import spawn
from apps.local.waiting import wait_for
from tasks.lab import lab_add, lab_atomic, lab_fail, lab_flaky, lab_nothing, lab_sleep, lab_snooze
from tests.acceptance.misbehaviour import note
from tests.jobs.bench import Bench, claim
from tests.jobs.sessions import Session
from tests.nobody import NOBODY

NOWHERE = f"redis://{NOBODY}/0"


def job_of(result: AsyncResult) -> Job:
    return Job.objects.get(pk=result.id)


# --- One step at a time -----------------------------------------------------------------------------------------------


@pytest.fixture
def work(db: None) -> Work:
    return Work(current_app, list(settings.JOBS_QUEUES))


def drain(work: Work) -> None:
    """Until nothing is left, without waiting for any countdown."""
    while ledger.hurry(Job.objects.filter(state=Job.State.QUEUED).values_list("pk", flat=True)):
        work.run_once()


def test_a_job_runs_and_its_result_is_kept(work: Work) -> None:
    result = lab_add.delay(1, 2)
    assert work.run_once() == 1
    assert (job_of(result).state, job_of(result).result, job_of(result).attempts) == (Job.State.SUCCEEDED, 3, 1)


def test_retries_chains_and_atomic_work_are_those_of_any_worker(work: Work) -> None:
    flaky, chained, atomic = lab_flaky.delay(failures=2), chain(lab_add.s(1, 2), lab_add.s(3))(), lab_atomic.delay()
    drain(work)
    assert (job_of(flaky).state, job_of(flaky).retries) == (Job.State.SUCCEEDED, 2)
    assert job_of(chained).result == 6
    assert Job.objects.get(parent_id=atomic.id).state == Job.State.SUCCEEDED


def test_what_a_celery_worker_has_tried_is_claimed_like_any_other(work: Work) -> None:
    """The marks that its main process had put into the request went into the row, and here none was claimed."""
    bench, result = Bench(), lab_flaky.delay(failures=1)
    [message] = bench.send()
    marks = {"token": claim(UUID(result.id)), "claimed_at": time.monotonic(), "ends_here": True}
    bench.deliver(replace(message, headers={**message.headers, **marks}))
    assert job_of(result).options.get("headers", {}).keys().isdisjoint({*marks, "ledger", "due"})
    drain(work)
    assert (job_of(result).state, job_of(result).attempts) == (Job.State.SUCCEEDED, 2)


def test_a_row_that_has_such_marks_already_is_claimed_too(work: Work) -> None:
    result = lab_nothing.delay()
    Job.objects.update(options={"headers": {"token": 7, "ends_here": True, "tenant": "north"}})
    drain(work)
    assert (job_of(result).state, job_of(result).attempts) == (Job.State.SUCCEEDED, 1)


def test_a_failure_is_a_dead_letter_and_the_next_job_runs(work: Work) -> None:
    bad, good = lab_fail.delay(), lab_nothing.delay()
    work.run_once()
    assert (job_of(bad).state, job_of(good).state) == (Job.State.DEAD, Job.State.SUCCEEDED)
    assert DeadLetter.objects.get(job_id=bad.id).kind == DeadLetter.Kind.PERMANENT


def test_a_snoozed_job_waits_in_the_ledger(work: Work) -> None:
    result = lab_snooze.delay(until=time.time() + 60)
    work.run_once()
    assert (job_of(result).state, job_of(result).attempts) == (Job.State.QUEUED, 0)
    assert work.run_once() == 0


def test_a_job_of_newer_code_is_handed_back_and_does_not_stop_the_others(work: Work) -> None:
    [unknown] = ledger.record([NewJob(task="tasks.of_the_next_release", args=[], kwargs={}, queue="default")])
    result = lab_nothing.delay()
    work.run_once()
    job = Job.objects.get(pk=unknown.id)
    assert (job.state, job.errors[0]["kind"]) == (Job.State.QUEUED, "unknown_task")
    assert job_of(result).state == Job.State.SUCCEEDED


def test_a_row_that_can_neither_be_called_nor_die_does_not_stop_the_others(work: Work, monkeypatch: Any) -> None:
    poison = ledger.record([NewJob(task="tasks.lab_nothing", args=[], kwargs={}, queue="default")])[0].id
    Job.objects.update(options={"no_such_option": {}, "headers": "none"})
    monkeypatch.setattr(ledger, "die", Mock(side_effect=KeyError("options")))
    sound = lab_nothing.delay()
    work.run_once()
    assert (job_of(sound).state, Job.objects.get(pk=poison).state) == (Job.State.SUCCEEDED, Job.State.QUEUED)


def test_an_error_of_the_thread_that_renews_leases_does_not_end_it(work: Work, monkeypatch: Any) -> None:
    """The second one stands for the process's end."""
    monkeypatch.setattr("apps.jobs.vitals.TICK", 0)
    monkeypatch.setattr(work.vitals, "look", Mock(side_effect=[KeyError("options"), KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        work.vitals._watch()


def test_a_rescue_that_fails_is_tried_at_its_next_time_and_not_at_once(work: Work, monkeypatch: Any) -> None:
    monkeypatch.setattr(work.vitals, "leases", Mock(look=Mock(side_effect=KeyError("options"))))
    with pytest.raises(KeyError):
        work.vitals.look()
    work.vitals.look()


def test_it_renews_every_ten_seconds_however_long_a_lease_is(work: Work, settings: Any) -> None:
    settings.JOBS_LEASE = timedelta(minutes=10)
    work.vitals.look()
    assert work.vitals.next_renewal <= time.monotonic() + 10


@pytest.fixture
def an_alarm_is_set() -> Iterator[None]:
    """For much later than the end of the test."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 600)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Begun(Exception):
    """Stands for a process that goes on."""


@pytest.mark.parametrize(("ends", "counter"), [("_out_of_time", "failed"), ("_cancelled", "revoked")])
def test_what_a_process_has_counted_is_written_before_it_begins_anew(
    work: Work, monkeypatch: Any, ends: str, counter: str
) -> None:
    monkeypatch.setattr("apps.jobs.vitals.logging.shutdown", Mock())
    monkeypatch.setattr("apps.jobs.vitals.os.execv", Mock(side_effect=Begun))
    counts._tallies.take()
    lab_nothing.delay()
    [job] = pull.take(["default"], 1)
    ledger.claim({job.id: 0}, lease.worker_id())
    counts.count("started", job.task, job.queue)
    with work.vitals.of(job, 0.1):
        end = partial(getattr(work.vitals, ends), work.vitals.running)
        with pytest.raises(Begun):
            end()
    total = TaskTotal.objects.get(task=job.task, queue=job.queue)
    assert (total.started, getattr(total, counter)) == (1, 1)


@pytest.mark.usefixtures("an_alarm_is_set")
def test_a_process_that_begins_anew_takes_no_alarm_along(work: Work, monkeypatch: Any) -> None:
    monkeypatch.setattr("apps.jobs.vitals.logging.shutdown", Mock())
    monkeypatch.setattr("apps.jobs.vitals.os.execv", Mock(side_effect=Begun))
    with pytest.raises(Begun):
        work.vitals._leave(lambda: None)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.usefixtures("an_alarm_is_set")
def test_an_alarm_of_whoever_began_this_process_does_not_end_it(work: Work, monkeypatch: Any) -> None:
    monkeypatch.setattr("apps.jobs.work.signal.signal", Mock())
    monkeypatch.setattr(work.vitals, "start", Mock(side_effect=Begun))
    with pytest.raises(Begun):
        work.run()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_task_that_asks_its_process_to_exit_is_counted_as_a_crash(work: Work, monkeypatch: Any) -> None:
    def leave() -> None:
        raise SystemExit(3)

    monkeypatch.setattr(lab_nothing, "run", leave)
    counts._tallies.take()
    result = lab_nothing.delay()
    work.run_once()
    assert (job_of(result).state, job_of(result).crashes) == (Job.State.QUEUED, 1)
    counts.write()
    total = TaskTotal.objects.get(task="tasks.lab_nothing")
    assert (total.started, total.retried) == (1, 1)


def test_a_task_that_asks_its_process_to_exit_when_its_job_is_another_s_by_now_is_not_counted(
    work: Work, monkeypatch: Any
) -> None:
    def lose_the_job_and_leave() -> None:
        Job.objects.update(worker_id=uuid4())
        raise SystemExit(3)

    monkeypatch.setattr(lab_nothing, "run", lose_the_job_and_leave)
    counts._tallies.take()
    lab_nothing.delay()
    work.run_once()
    counts.write()
    total = TaskTotal.objects.get(task="tasks.lab_nothing")
    assert (total.started, total.retried) == (1, 0)


def test_a_job_that_lost_its_database_once_too_often_is_a_failure(work: Work, monkeypatch: Any) -> None:
    def lose_the_database() -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(rescue, "crashes_allowed", lambda _: 1)
    monkeypatch.setattr(lab_nothing, "run", lose_the_database)
    counts._tallies.take()
    lab_nothing.delay()
    drain(work)
    counts.write()
    total = TaskTotal.objects.get(task="tasks.lab_nothing")
    assert (total.started, total.retried, total.failed) == (2, 1, 1)


def test_what_has_expired_or_was_cancelled_does_not_run(work: Work) -> None:
    expired, cancelled = lab_nothing.apply_async(expires=60), lab_nothing.delay()
    Job.objects.filter(pk=expired.id).update(expires_at=Now())
    ledger.cancel(UUID(cancelled.id))
    work.run_once()
    assert [job_of(each).state for each in (expired, cancelled)] == [Job.State.DEAD, Job.State.CANCELLED]
    assert DeadLetter.objects.get(job_id=expired.id).kind == DeadLetter.Kind.EXPIRED
    assert not Job.objects.exclude(started_at=None).exists()


def test_a_paused_queue_is_left_alone(work: Work) -> None:
    result = lab_nothing.apply_async(queue="low")
    queues.pause("low")
    assert work.run_once() == 0
    queues.resume("low")
    assert work.run_once() == 1
    assert job_of(result).state == Job.State.SUCCEEDED


def test_the_first_queue_is_served_before_the_next(work: Work) -> None:
    for queue in ("low", "default", "high"):
        lab_nothing.apply_async(queue=queue)
    work.run_once()
    assert list(Job.objects.order_by("started_at").values_list("queue", flat=True)) == ["high", "default", "low"]


def test_what_there_was_no_time_for_goes_back_and_keeps_its_place(work: Work, monkeypatch: Any) -> None:
    ids = [UUID(result.id) for result in (lab_nothing.delay() for _ in range(3))]
    places = list(Job.objects.order_by("pk").values_list("run_at", flat=True))
    monkeypatch.setattr("apps.jobs.work.HOLD", -1.0)
    work.run_once()
    assert list(Job.objects.order_by("pk").values_list("run_at", flat=True)) == places
    assert set(Job.objects.filter(pk__in=ids).values_list("state", flat=True)) == {Job.State.QUEUED}


def test_what_a_relay_sent_in_vain_is_taken_after_a_while(work: Work, monkeypatch: Any) -> None:
    result = lab_nothing.delay()
    assert ledger.take_due(["default"], 10)
    assert work.run_once() == 0
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_job SET sent_at = sent_at - %s", [pull.SILENT])  # type: ignore[list-item]
    work.next_look = 0.0
    work.run_once()
    assert (job_of(result).state, job_of(result).attempts, job_of(result).crashes) == (Job.State.SUCCEEDED, 1, 0)


def test_what_happened_is_counted_as_by_any_worker(work: Work) -> None:
    counts.write()
    before = counted("tasks.lab_flaky")
    lab_flaky.delay(failures=1)
    drain(work)
    counts.write()
    after = counted("tasks.lab_flaky")
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1]


def counted(task: str) -> tuple[int, int, int]:
    total = TaskTotal.objects.filter(task=task, queue="default").first()
    return (total.started, total.retried, total.succeeded) if total else (0, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_take_the_same_job() -> None:
    lab_nothing.delay_many([{} for _ in range(4)])
    first, second = Session(), Session()
    try:
        with first.current():
            first.begin()
            taken = {job.id for job in pull.take(["default"], 2)}
        with second.current():
            also_taken = {job.id for job in pull.take(["default"], 4)}
        assert (len(taken), len(also_taken), taken & also_taken) == (2, 2, set())
    finally:
        first.close()
        second.close()


# --- Real processes ---------------------------------------------------------------------------------------------------

# The machine may be doing many other things; a test goes on as soon as its condition holds.
PATIENCE = 60.0
# With the tasks that misbehave, which the catalogue does not have.
WORK = """
import django; django.setup()
import tests.acceptance.misbehaviour
from django.core.management import call_command; call_command("work")
"""
SHORT_WAITS = {"JOBS_LEASE_SECONDS": "2", "JOBS_RESCUE_SECONDS": "0.2", "JOBS_SHUTDOWN_GRACE_SECONDS": "1.5"}

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_work(transactional_db: None, servers: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Returns when it is working. There is no broker at the address that it knows."""
    base, _, _ = servers["DATABASE_URL"].rpartition("/")
    own = {"DATABASE_URL": f"{base}/{connection.settings_dict['NAME']}", "CELERY_BROKER_URL": NOWHERE}
    processes: list[subprocess.Popen[bytes]] = []

    def start(before: str = "") -> subprocess.Popen[bytes]:
        log = tmp_path / f"work-{len(processes)}.log"
        environment = {**os.environ, **own, "REDIS_URL": NOWHERE, **SHORT_WAITS}
        processes.append(spawn([sys.executable, "-c", before + WORK], log=log, cwd=settings.BASE_DIR, env=environment))
        assert wait_for(lambda: "Working on" in log.read_text(), PATIENCE, every=0.05), log.read_text()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book"
    path.touch()
    return path


def eventually(condition: Callable[[], Any]) -> None:
    assert wait_for(lambda: bool(condition()), PATIENCE, every=0.05), f"not within {PATIENCE:.0f} s"


def starts(book: Path) -> list[str]:
    return [line.split()[1] for line in book.read_text().splitlines() if line.startswith("start")]


def all_succeeded() -> bool:
    return not Job.objects.exclude(state=Job.State.SUCCEEDED).exists()


def test_a_kill_costs_the_running_job_one_attempt_and_those_behind_it_nothing(start_work: Start, book: Path) -> None:
    running = note.delay(book=str(book), seconds=1.5)
    behind = [note.delay(book=str(book)) for _ in range(20)]
    worker = start_work()
    eventually(lambda: starts(book))
    worker.kill()
    start_work()
    eventually(all_succeeded)
    assert (job_of(running).attempts, job_of(running).crashes) == (2, 1)
    assert {(job_of(each).attempts, job_of(each).crashes) for each in behind} == {(1, 0)}
    assert len(starts(book)) == 22


def test_sigterm_lets_a_short_job_finish_hands_a_long_one_back_and_counts_nothing(
    start_work: Start, book: Path
) -> None:
    # Long enough to be met while it runs, and shorter than the grace.
    short, behind = note.delay(book=str(book), seconds=1), note.delay(book=str(book))
    worker = start_work()
    eventually(lambda: starts(book))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert job_of(short).state == Job.State.SUCCEEDED
    assert (job_of(behind).state, job_of(behind).attempts) == (Job.State.QUEUED, 0)
    assert Worker.objects.get(pid=worker.pid).stopped_at

    ledger.cancel(UUID(behind.id))
    long = note.delay(book=str(book), seconds=30)
    worker = start_work()
    eventually(lambda: long.id in starts(book))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert (job_of(long).state, job_of(long).attempts, job_of(long).errors) == (Job.State.QUEUED, 0, [])


def test_a_job_that_outlasts_its_lease_keeps_it_and_two_workers_run_each_job_once(
    start_work: Start, book: Path
) -> None:
    start_work()
    start_work()
    long = note.delay(book=str(book), seconds=3)
    note.delay_many([{"book": str(book)} for _ in range(100)])
    eventually(all_succeeded)
    assert (job_of(long).attempts, job_of(long).crashes) == (1, 0)
    assert len(starts(book)) == len(set(starts(book))) == 101


def test_what_runs_too_long_or_was_cancelled_is_ended_by_a_process_that_begins_anew(
    start_work: Start, book: Path
) -> None:
    worker = start_work()
    soft = note.apply_async(kwargs={"book": str(book), "seconds": 60}, soft_time_limit=0.2)
    eventually(lambda: job_of(soft).state == Job.State.DEAD)
    hard = note.apply_async(kwargs={"book": str(book), "seconds": 60}, soft_time_limit=50, time_limit=0.2)
    eventually(lambda: job_of(hard).state == Job.State.DEAD)
    kinds = DeadLetter.objects.filter(job_id__in=[soft.id, hard.id]).values_list("kind", flat=True)
    assert list(kinds) == [DeadLetter.Kind.TIME_LIMIT] * 2

    cancelled = note.delay(book=str(book), seconds=60)
    eventually(lambda: cancelled.id in starts(book))
    ledger.cancel(UUID(cancelled.id))
    eventually(lambda: job_of(cancelled).state == Job.State.CANCELLED)

    assert worker.poll() is None, "the same process, and nobody had to start it again"
    eventually(lambda: Worker.objects.filter(pid=worker.pid, stopped_at=None).count() == 1)
    total = TaskTotal.objects.get(task=note.name)
    assert (total.failed, total.revoked) == (2, 1)


def somebody_listens() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        return bool(cursor.fetchone()[0])


def test_a_job_starts_when_it_is_committed_and_not_at_the_next_poll(start_work: Start) -> None:
    start_work(before="import django; django.setup(); import apps.jobs.work as work; work.POLL_EVERY = 3_600\n")
    eventually(somebody_listens)
    lab_sleep.delay(seconds=0.01, steps=1)
    eventually(all_succeeded)


def test_a_database_that_ends_all_sessions_is_found_again(start_work: Start) -> None:
    start_work()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    lab_sleep.delay(seconds=0.01, steps=1)
    eventually(all_succeeded)
