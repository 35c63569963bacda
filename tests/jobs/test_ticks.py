from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import schedule as every
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from django_celery_beat.tzcrontab import TzAwareCrontab

from apps.jobs.ticks import latest_tick, next_tick, tick_after

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)


def berlin(*fields: int, fold: int = 0) -> datetime:
    return datetime(*fields, tzinfo=BERLIN, fold=fold).astimezone(UTC)  # type: ignore[misc, arg-type]


def ticks(moment: datetime, count: int, **fields: str) -> list[datetime]:
    crontab = TzAwareCrontab(**fields, tz=BERLIN)
    return [moment := tick_after(crontab, moment) for _ in range(count)]


def nightly(**fields: Any) -> PeriodicTask:
    """At 02:00, last edited a week before noon."""
    model = PeriodicTask(name="nightly", crontab=CrontabSchedule(minute="0", hour="2"), **fields)
    model.date_changed = fields.get("date_changed", NOON - timedelta(days=7))
    return model


def test_a_nightly_job_runs_once_in_the_night_in_which_the_clocks_go_back() -> None:
    assert ticks(berlin(2026, 10, 24, 12), 2, minute="30", hour="2") == [
        berlin(2026, 10, 25, 2, 30),
        berlin(2026, 10, 26, 2, 30),
    ]


def test_a_nightly_job_runs_once_in_the_night_that_has_no_such_hour() -> None:
    assert ticks(berlin(2026, 3, 28, 12), 2, minute="30", hour="2") == [
        berlin(2026, 3, 29, 3, 30),
        berlin(2026, 3, 30, 2, 30),
    ]


def test_no_tick_lies_in_the_past_during_the_hour_that_comes_twice() -> None:
    second_time = berlin(2026, 10, 25, 2, 10, fold=1)

    tick, *_ = ticks(second_time, 1, minute="*/20")

    assert tick == second_time + timedelta(minutes=10)


def test_a_crontab_keeps_its_own_time_zone() -> None:
    assert ticks(NOON, 1, minute="0", hour="9") == [datetime(2026, 6, 11, 7, tzinfo=UTC)]


def test_an_interval_keeps_its_beat_after_a_long_sleep() -> None:
    first = NOON - timedelta(days=2)

    assert latest_tick(every(300), first, NOON + timedelta(seconds=7), NOON) == NOON


def test_a_nightly_job_that_is_seconds_late_tonight_is_on_time_even_if_last_night_was_missed() -> None:
    schedule = CrontabSchedule(minute="0", hour="2").schedule
    tonight = datetime(2026, 6, 10, 2, tzinfo=UTC)
    now = tonight + timedelta(seconds=10)

    assert latest_tick(schedule, tonight - timedelta(days=1), now, now - timedelta(minutes=1)) == tonight


def test_what_was_missed_stays_the_next_tick() -> None:
    model = nightly(last_run_at=NOON - timedelta(days=3))

    assert next_tick(model) == datetime(2026, 6, 8, 2, tzinfo=UTC)


def test_moving_a_crontab_to_an_earlier_hour_does_not_make_today_a_missed_day() -> None:
    model = nightly(last_run_at=NOON - timedelta(days=1), date_changed=NOON)

    assert next_tick(model) == datetime(2026, 6, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize("schedule", ["interval", "crontab"])
def test_nothing_is_due_before_the_start_and_the_start_itself_is(schedule: str) -> None:
    start = datetime(2026, 7, 1, 2, tzinfo=UTC)
    model = nightly(start_time=start)
    if schedule == "interval":
        model.crontab, model.interval = None, IntervalSchedule(every=7, period="seconds")

    assert next_tick(model) == start


def test_nothing_is_due_after_the_end() -> None:
    assert next_tick(nightly(expires=NOON - timedelta(days=8))) is None
