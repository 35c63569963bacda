"""Beat, in this process: what one tick does. `test_two_beats.py` has the real processes."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from celery import current_app
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from apps.jobs.leader import IDLE
from apps.jobs.models import DeadLetter, Job, SchedulePolicy
from apps.jobs.schedule import ensure_schedule
from apps.jobs.scheduler import PUT_OFF, STANDBY_EVERY, LedgerScheduler
from apps.jobs.ticks import next_tick
from apps.local.waiting import wait_for
from config.queues import QueuePolicy
from tasks.lab import lab_unique
from tests.jobs.sessions import Session

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def beat(monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerScheduler]:
    # The test's transaction lives in this connection.
    monkeypatch.setattr("django_celery_beat.schedulers.close_old_connections", lambda: None)
    monkeypatch.setattr(connection, "close", lambda: None)
    PeriodicTask.objects.all().delete()
    beat = LedgerScheduler(app=current_app)
    yield beat
    beat.leadership.give_up()


def schedule(last_run: datetime, task: str = "tasks.lab_nothing", **fields: Any) -> PeriodicTask:
    """Every hour."""
    interval, _ = IntervalSchedule.objects.get_or_create(every=3600, period=IntervalSchedule.SECONDS)
    fields = {"name": "hourly", "interval": interval, **fields}
    return PeriodicTask.objects.create(task=task, last_run_at=last_run, **fields)


def long_ago() -> datetime:
    """When the last run was, if two ticks have been missed and the next one is half an hour away."""
    return timezone.now() - 2.5 * HOUR


def just_due() -> datetime:
    return timezone.now() - HOUR - timedelta(seconds=1)


def started() -> list[str]:
    return list(Job.objects.order_by("created_at").values_list("task", flat=True))


def test_a_due_tick_becomes_one_job_and_is_noted(beat: LedgerScheduler) -> None:
    model = schedule(just_due())

    wait = beat.tick()
    beat.tick()

    model.refresh_from_db()
    assert started() == ["tasks.lab_nothing"]
    assert model.total_run_count == 1
    assert wait == beat.max_interval
    assert SchedulePolicy.objects.get(schedule=model).last_job_id == Job.objects.get().id


def test_an_interval_does_not_drift(beat: LedgerScheduler) -> None:
    last_run = just_due()
    model = schedule(last_run)

    beat.tick()

    model.refresh_from_db()
    assert model.last_run_at == last_run + HOUR


def test_a_beat_that_dies_between_the_job_and_the_note_has_done_neither(
    beat: LedgerScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_run = just_due()
    model = schedule(last_run)

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerScheduler, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            beat.tick()

    model.refresh_from_db()
    assert (started(), model.last_run_at) == ([], last_run)

    beat.tick()
    assert len(started()) == 1


def test_of_two_leaders_that_both_think_a_tick_is_due_one_runs_it(beat: LedgerScheduler) -> None:
    model = schedule(just_due())
    other = LedgerScheduler(app=current_app)

    beat.run(model.pk, timezone.now())
    other.run(model.pk, timezone.now())

    assert len(started()) == 1


def test_a_beat_never_sleeps_for_so_long_that_it_loses_the_lead() -> None:
    beat = LedgerScheduler(app=current_app, max_interval=300)

    assert beat.max_interval == 10


def test_a_beat_that_does_not_lead_starts_nothing_and_asks_again_soon(beat: LedgerScheduler) -> None:
    schedule(just_due())
    other = LedgerScheduler(app=current_app)
    assert other.leadership.hold()

    assert beat.tick() == STANDBY_EVERY
    assert started() == []

    other.close()
    # The server lets go of a session's lock a moment after the session is over.
    assert wait_for(beat.leadership.hold, 10)
    beat.tick()
    assert len(started()) == 1


def test_a_beat_whose_session_is_gone_leads_no_longer_and_then_goes_on(beat: LedgerScheduler) -> None:
    schedule(just_due())
    assert beat.leadership.hold()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE locktype = 'advisory' AND datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert beat.tick() == STANDBY_EVERY
    assert started() == []

    beat.tick()
    assert len(started()) == 1


@pytest.mark.parametrize(("missed", "jobs"), [("run_once", 1), ("skip", 0)])
def test_ticks_missed_while_no_beat_was_up_follow_the_policy(beat: LedgerScheduler, missed: str, jobs: int) -> None:
    last_run = long_ago()
    model = schedule(last_run)
    SchedulePolicy.objects.create(schedule=model, missed=missed)

    beat.tick()
    beat.tick()

    model.refresh_from_db()
    assert len(started()) == jobs == model.total_run_count
    assert model.last_run_at == last_run + 2 * HOUR


def test_a_tick_that_is_only_slow_is_not_missed(beat: LedgerScheduler) -> None:
    SchedulePolicy.objects.create(schedule=schedule(just_due()), missed="skip", late_after=timedelta(minutes=1))

    beat.tick()

    assert len(started()) == 1


@pytest.mark.parametrize(
    ("state", "overlap", "jobs"), [("running", "skip", 1), ("running", "allow", 2), ("succeeded", "skip", 2)]
)
def test_a_tick_is_skipped_while_the_last_run_is_live(
    beat: LedgerScheduler, state: str, overlap: str, jobs: int
) -> None:
    last = Job.objects.create(
        task="tasks.lab_nothing",
        queue="default",
        state=state,
        finished_at=timezone.now() if state == "succeeded" else None,
    )
    SchedulePolicy.objects.create(schedule=schedule(just_due()), overlap=overlap, last_job_id=last.id)

    beat.tick()

    assert len(started()) == jobs


def test_what_the_admin_says_about_the_job_is_honoured(beat: LedgerScheduler) -> None:
    schedule(
        just_due(),
        task="tasks.lab_add",
        args="[1]",
        kwargs='{"y": 2}',
        queue="low",
        priority=3,
        headers='{"why": "a test"}',
        expire_seconds=60,
    )

    beat.tick()

    job = Job.objects.get()
    assert (job.args, job.kwargs, job.queue, job.priority) == ([1], {"y": 2}, "low", 3)
    assert job.options["headers"] == {"why": "a test", "periodic_task_name": "hourly", "celery_beat_task": True}
    assert job.expires_at is not None
    assert timedelta(seconds=50) < job.expires_at - timezone.now() < timedelta(seconds=61)


def test_a_clock_that_was_a_year_ahead_and_is_put_back_does_not_silence_a_schedule(beat: LedgerScheduler) -> None:
    model = schedule(timezone.now() + timedelta(days=365))

    beat.tick()

    model.refresh_from_db()
    due = next_tick(model)
    assert due is not None
    assert timezone.now() < due <= timezone.now() + HOUR
    assert started() == []


def test_a_beat_whose_clock_is_a_little_behind_runs_no_tick_a_second_time(beat: LedgerScheduler) -> None:
    model = schedule(last_run := timezone.now() + timedelta(seconds=30))

    beat.tick()

    model.refresh_from_db()
    assert (started(), model.last_run_at) == ([], last_run)


def test_a_one_off_schedule_runs_once_and_is_disabled(beat: LedgerScheduler) -> None:
    model = schedule(just_due(), one_off=True)

    beat.tick()
    beat.tick()

    model.refresh_from_db()
    assert (len(started()), model.enabled) == (1, False)


def test_a_clocked_schedule_runs_once(beat: LedgerScheduler) -> None:
    clocked = ClockedSchedule.objects.create(clocked_time=timezone.now())
    model = schedule(timezone.now(), interval=None, clocked=clocked, one_off=True)

    beat.tick()
    beat.tick()

    model.refresh_from_db()
    assert (len(started()), model.enabled) == (1, False)


@pytest.mark.parametrize("kind", ["clocked", "one-off"])
def test_a_schedule_that_runs_once_runs_once_more_each_time_it_is_enabled(beat: LedgerScheduler, kind: str) -> None:
    """By the admin's action, which does not count as an edit."""
    clocked = ClockedSchedule.objects.create(clocked_time=timezone.now())
    fields = {"interval": None, "clocked": clocked} if kind == "clocked" else {}
    model = schedule(timezone.now(), one_off=True, **fields)
    PeriodicTask.objects.update(last_run_at=None, date_changed=just_due())
    other = LedgerScheduler(app=current_app)

    for runs in (1, 2, 3):
        PeriodicTask.objects.update(enabled=True)
        beat.run(model.pk, timezone.now())
        other.run(model.pk, timezone.now())

        model.refresh_from_db()
        assert (len(started()), model.total_run_count, model.enabled) == (runs, runs, False)
        Job.objects.update(state=Job.State.SUCCEEDED, finished_at=timezone.now())


def test_a_task_that_this_beat_does_not_know_is_left_to_the_workers(beat: LedgerScheduler) -> None:
    schedule(just_due(), task="tasks.of_tomorrow", queue="low")

    beat.tick()

    job = Job.objects.get()
    assert (job.task, job.queue, job.state) == ("tasks.of_tomorrow", "low", "queued")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"kwargs": '{"no_such_argument": 1}'}, "wrong_arguments"),
        ({"queue": "no-such-queue"}, "permanent"),
        ({"args": "{not json"}, "permanent"),
        ({"headers": "[1]"}, "wrong_arguments"),
        ({"task": "tasks.lab_total", "args": '["\\u0000"]'}, "permanent"),
        ({"task": "tasks.lab_total", "args": "[NaN]"}, "permanent"),
    ],
)
def test_a_schedule_whose_job_cannot_be_made_leaves_a_dead_letter_and_the_others_run(
    beat: LedgerScheduler, fields: dict[str, str], kind: str
) -> None:
    schedule(just_due(), name="broken", **fields)
    schedule(just_due(), name="sound", task="tasks.lab_total", args="[[1]]")

    beat.tick()

    assert started() == ["tasks.lab_total"]
    assert DeadLetter.objects.get().kind == kind


@pytest.mark.parametrize("minute", ["99", "*,", ""])
def test_a_schedule_that_makes_no_sense_does_not_stop_the_others(beat: LedgerScheduler, minute: str) -> None:
    broken, _ = CrontabSchedule.objects.get_or_create(minute=minute)
    schedule(just_due(), name="broken", interval=None, crontab=broken)
    schedule(just_due(), name="sound", task="tasks.lab_total", args="[[1]]")

    beat.tick()

    assert started() == ["tasks.lab_total"]


def test_a_schedule_by_the_sun_without_the_library_for_it_does_not_stop_the_others(beat: LedgerScheduler) -> None:
    by_the_sun = SolarSchedule.objects.create(event="sunrise", latitude=52, longitude=13)
    schedule(just_due(), name="broken", interval=None, solar=by_the_sun)
    schedule(just_due(), name="sound", task="tasks.lab_total", args="[[1]]")

    beat.tick()

    assert started() == ["tasks.lab_total"]


def test_a_job_that_cannot_be_asked_for_does_not_stop_the_others(
    beat: LedgerScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a broker-only task is in Redis, and the broker is another server."""
    monkeypatch.setattr(current_app.tasks["tasks.lab_nothing"], "apply_async", Mock(side_effect=RedisError("away")))
    model = schedule(last_run := just_due(), name="broken")
    schedule(just_due(), name="sound", task="tasks.lab_total", args="[[1]]")
    beat.broker_errors = (BrokerError,)

    beat.tick()

    assert started() == ["tasks.lab_total"]
    model.refresh_from_db()
    assert model.last_run_at == last_run


def test_a_full_queue_puts_the_tick_off_and_loses_nothing(
    beat: LedgerScheduler, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_run = just_due()
    model = schedule(last_run)
    settings.JOBS_QUEUES = {"default": QueuePolicy(max_depth=0, oldest_seconds=1)}

    assert beat.tick() == PUT_OFF
    model.refresh_from_db()
    assert (started(), model.last_run_at) == ([], last_run)

    settings.JOBS_QUEUES = {"default": QueuePolicy(max_depth=10, oldest_seconds=1)}
    monkeypatch.setattr("apps.jobs.backpressure._counted", {})
    beat.tick()
    assert len(started()) == 1


@pytest.fixture
def elsewhere(transactional_db: None) -> Iterator[Session]:
    """Whoever waits for its locks without end is cancelled after a while, for the test to fail and not to hang."""
    session = Session()
    session.begin()
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '5s'")
        yield session
        cursor.execute("RESET statement_timeout")
    session.close()


def test_a_schedule_that_somebody_locks_does_not_stop_the_others(elsewhere: Session, beat: LedgerScheduler) -> None:
    locked = schedule(just_due(), name="locked")
    schedule(just_due(), name="free", task="tasks.lab_total", args="[[1]]")
    with elsewhere.current():
        PeriodicTask.objects.select_for_update().get(pk=locked.pk)

    assert beat.tick() == PUT_OFF
    assert started() == ["tasks.lab_total"]
    assert beat.leadership.is_held

    elsewhere.rollback()
    beat.tick()
    assert started() == ["tasks.lab_total", "tasks.lab_nothing"]


def test_a_beat_that_is_frozen_in_its_tick_loses_the_schedule_as_it_loses_the_lead(
    beat: LedgerScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patience(*_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            seen.extend(cursor.fetchone())

    seen: list[str] = []
    monkeypatch.setattr(beat, "_run_locked", patience)
    schedule(just_due())

    beat.tick()

    assert seen == [IDLE]


def test_a_unique_key_that_is_not_committed_yet_does_not_stop_the_others(
    elsewhere: Session, beat: LedgerScheduler
) -> None:
    schedule(just_due(), name="unique", task="tasks.lab_unique", args='["a"]')
    schedule(just_due(), name="free", task="tasks.lab_total", args="[[1]]")
    with elsewhere.current():
        lab_unique.delay("a")

    assert beat.tick() == PUT_OFF
    assert started() == ["tasks.lab_total"]

    elsewhere.rollback()
    beat.tick()
    assert started() == ["tasks.lab_total", "tasks.lab_unique"]


def test_a_broker_that_is_away_puts_off_only_what_needs_it(
    beat: LedgerScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_run = just_due()
    model = schedule(last_run, name="broker-only", task="tasks.lab_nothing_broker_only")
    schedule(just_due(), name="durable")

    def no_broker(*args: Any, **options: Any) -> None:
        raise BrokerError("Connection refused")

    monkeypatch.setattr("celery.Task.apply_async", no_broker)

    assert beat.tick() == PUT_OFF

    model.refresh_from_db()
    assert model.last_run_at == last_run
    assert started() == ["tasks.lab_nothing"]


def test_a_broker_only_task_is_published(beat: LedgerScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []

    def publish(task: Any, args: Any, kwargs: Any, task_id: str, *_: Any, **options: Any) -> Any:
        published.append(task.name)
        return task.AsyncResult(task_id)

    monkeypatch.setattr("celery.Task.apply_async", publish)
    schedule(just_due(), task="tasks.lab_nothing_broker_only")

    beat.tick()

    assert published == ["tasks.lab_nothing_broker_only"]
    assert started() == []


def test_an_edit_is_seen_without_a_restart(beat: LedgerScheduler) -> None:
    model = schedule(timezone.now())
    beat.tick()

    PeriodicTask.objects.filter(pk=model.pk).update(last_run_at=just_due())
    beat.tick()

    assert len(started()) == 1


# --- The schedule in code ---------------------------------------------------------------------------------------------


def test_the_schedule_in_code_is_in_the_database_with_its_policies() -> None:
    PeriodicTask.objects.all().delete()

    assert ensure_schedule() == [entry.name for entry in django_settings.JOBS_SCHEDULE]

    nightly = PeriodicTask.objects.get(name="cleanup-old-records")
    assert str(nightly.crontab) == "0 2 * * * (m/h/dM/MY/d) UTC"
    assert nightly.policy.missed == "run_once"


def test_what_was_edited_in_the_admin_is_never_overwritten() -> None:
    ensure_schedule()
    PeriodicTask.objects.filter(name="sync-external-data").update(enabled=False, queue="low")

    assert ensure_schedule() == []

    edited = PeriodicTask.objects.get(name="sync-external-data")
    assert (edited.enabled, edited.queue) == (False, "low")


def test_every_task_in_the_schedule_exists() -> None:
    assert {entry.task for entry in django_settings.JOBS_SCHEDULE} <= current_app.tasks.keys()
