from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from apps.jobs import retention
from apps.jobs.limits import Rate
from apps.jobs.models import Chord, DeadLetter, Job, RateWindow, Worker
from apps.jobs.retention import Swept, sweep
from tests.jobs.bench import behind_stale_statistics, insert_jobs
from tests.jobs.sessions import Session

pytestmark = pytest.mark.django_db

NOW = timezone.now()
NOTHING = Swept(jobs=0, letters=0, workers=0, chords=0)


def days_ago(days: float) -> Any:
    return NOW - timedelta(days=days)


def job(state: str, days: float, **fields: Any) -> Job:
    return Job.objects.create(
        task="tasks.lab_nothing", queue="default", state=state, finished_at=days_ago(days), **fields
    )


def letter(state: str, days: float, **fields: Any) -> DeadLetter:
    return DeadLetter.objects.create(
        task="tasks.lab_fail",
        queue="default",
        kind="permanent",
        state=state,
        created_at=days_ago(days),
        resolved_at=None if state == "open" else days_ago(days),
        **fields,
    )


@pytest.mark.parametrize(("state", "kept_for"), [("succeeded", 7), ("cancelled", 7), ("dead", 90)])
def test_a_job_goes_when_its_time_is_over_and_not_before(state: str, kept_for: int) -> None:
    job(state, kept_for + 0.1)
    young = job(state, kept_for - 0.1)

    assert sweep(NOW).jobs == 1
    assert list(Job.objects.all()) == [young]


@pytest.mark.parametrize("state", ["queued", "sent", "running"])
def test_a_live_job_is_never_deleted(state: str) -> None:
    Job.objects.create(task="tasks.lab_nothing", queue="default", state=state, created_at=days_ago(1000))

    assert sweep(NOW) == NOTHING


def test_an_open_dead_letter_stays_for_ever_and_so_does_its_job() -> None:
    dead = job("dead", 1000)
    letter("open", 1000, job_id=dead.id)

    assert sweep(NOW) == NOTHING


@pytest.mark.parametrize("state", ["replayed", "discarded"])
def test_a_resolved_letter_goes_with_its_job(state: str) -> None:
    dead = job("dead", 91)
    letter(state, 91, job_id=dead.id)
    letter(state, 89)

    assert sweep(NOW) == Swept(jobs=1, letters=1, workers=0, chords=0)


def test_the_parts_of_a_chord_stay_until_it_has_read_their_results() -> None:
    part = job("succeeded", 8)
    chord = Chord.objects.create(id=uuid4(), body={}, body_id=uuid4(), header=[str(part.id)], waits_for=1)
    Job.objects.filter(pk=part.pk).update(options={"group_id": str(chord.id)})

    assert sweep(NOW) == NOTHING

    chord.delete()
    assert sweep(NOW).jobs == 1


def test_a_job_that_still_holds_its_unique_key_stays() -> None:
    job("succeeded", 8, unique_key="once a month", unique_expires_at=NOW + timedelta(days=22))

    assert sweep(NOW) == NOTHING


def test_a_chord_that_can_never_start_leaves_a_dead_letter_for_its_body() -> None:
    body_id = uuid4()
    body = {"task": "tasks.lab_total", "args": [], "kwargs": {}, "options": {"task_id": str(body_id)}}
    Chord.objects.create(id=uuid4(), body=body, body_id=body_id, header=[], waits_for=1, created_at=days_ago(91))

    assert sweep(NOW).chords == 1

    assert DeadLetter.objects.get(job_id=body_id).kind == "dependency"
    assert not Chord.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_chord_that_another_sweep_abandons_at_the_same_time_is_left_to_it() -> None:
    body = {"task": "tasks.lab_total", "args": [], "kwargs": {}, "options": {}}
    Chord.objects.create(id=uuid4(), body=body, body_id=uuid4(), header=[], waits_for=1, created_at=days_ago(91))
    other = Session()
    other.begin()
    with other.current():
        assert sweep(NOW).chords == 1

    assert sweep(NOW) == NOTHING

    other.close()


def test_a_chord_with_a_live_part_is_only_slow() -> None:
    chord = Chord.objects.create(id=uuid4(), body={}, body_id=uuid4(), header=[], waits_for=1, created_at=days_ago(91))
    Job.objects.create(task="tasks.lab_nothing", queue="default", options={"group_id": str(chord.id)})

    assert sweep(NOW) == NOTHING


def test_workers_of_last_week_go_and_those_of_today_stay() -> None:
    for days in (8, 6):
        Worker.objects.create(name="w", pid=1, pool="prefork", heartbeat_at=days_ago(days))

    assert sweep(NOW).workers == 1


def test_everything_goes_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for number in range(5):
        job("succeeded", 8 + number)
    open_one = job("dead", 200)
    letter("open", 200, job_id=open_one.id)

    assert sweep(NOW).jobs == 5
    assert sweep(NOW) == NOTHING


def test_a_batch_is_small_whatever_the_statistics_say() -> None:
    finished = f"timestamptz '{days_ago(8).isoformat()}' - i * interval '1 second'"
    behind_stale_statistics(lambda: insert_jobs(2_000, state="'succeeded'", finished_at=finished))
    batch = retention._delete_batch(retention.ENDED_JOBS, [[Job.State.SUCCEEDED], retention.LONG_AGO, NOW, 10])
    assert len(batch) == 10


@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_is_left_for_the_next_sweep() -> None:
    held = job("succeeded", 8)
    job("succeeded", 8)
    operator = Session()
    operator.begin()
    with operator.current():
        Job.objects.select_for_update().get(pk=held.pk)

    assert sweep(NOW).jobs == 1

    operator.close()
    assert sweep(NOW).jobs == 1


def test_old_rows_are_found_by_their_own_index() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN " + retention.ENDED_JOBS, [["succeeded"], days_ago(1000), days_ago(7), retention.BATCH])
        plan = "\n".join(row[0] for row in cursor.fetchall())

    assert "job_finished" in plan


def test_the_table_is_vacuumed_long_before_a_fifth_of_it_is_dead() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'jobs_job'")
        [options] = cursor.fetchone()

    assert "autovacuum_vacuum_scale_factor=0.01" in options


@pytest.mark.parametrize(
    ("rate", "counts_for"),
    [("30/minute", 1 / 1440), ("2/hour", 1 / 24), ("9 per 2 day", 2), ("5/month", 30), ("5/year", 360)],
)
def test_a_rates_window_goes_an_hour_after_its_end(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, rate: str, counts_for: float
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    settings.REDIS_URL = ""
    for key in ("old", "older", "young"):
        Rate(key, rate).acquire()
    places = RateWindow.objects.filter(key__contains="old")
    places.update(taken_at=[days_ago(1000), days_ago(counts_for + 7 + 1 / 24)])
    RateWindow.objects.filter(key__contains="young").update(taken_at=[days_ago(1000), days_ago(counts_for)])
    assert sweep(NOW).windows == 2
    assert "young" in RateWindow.objects.get().key
