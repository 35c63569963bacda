"""When a schedule is due: pure arithmetic on times, for every kind of schedule that django-celery-beat knows."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from celery.schedules import schedule as Every  # noqa: N812  (its own name says nothing)
from django_celery_beat.clockedschedule import clocked
from django_celery_beat.models import PeriodicTask


def next_tick(model: PeriodicTask) -> datetime | None:
    """The first tick that has not been run or skipped yet, perhaps long ago; None after the schedule's `expires`."""
    tick = tick_after(model.schedule, _counts_from(model))
    return None if model.expires and tick >= model.expires else tick


def _counts_from(model: PeriodicTask) -> datetime:
    schedule = model.schedule
    moment: datetime = model.last_run_at or model.date_changed
    if isinstance(schedule, Every):
        before_start = timedelta(seconds=schedule.seconds)
    else:
        # Someone who changes 02:00 to 09:00 at noon has not missed today's tick.
        moment = max(moment, model.date_changed)
        before_start = timedelta(seconds=1)
    return max(moment, model.start_time - before_start) if model.start_time else moment


def tick_after(schedule: Any, moment: datetime) -> datetime:
    """The first tick later than `moment`. A clocked schedule has one tick, whatever the moment."""
    if isinstance(schedule, Every):
        return moment + timedelta(seconds=schedule.seconds)
    if isinstance(schedule, clocked):
        return cast(datetime, schedule.clocked_time)
    moment = moment.astimezone(UTC)  # in which an hour later is an hour later
    schedule.nowfun = lambda: moment
    tick: datetime = moment + schedule.remaining_estimate(moment.astimezone(schedule.tz))
    if tick <= moment:
        # When the clocks go back an hour comes twice, and Celery has taken the first one, which is over.
        tick = tick.astimezone(schedule.tz).replace(fold=1)
    return tick.astimezone(UTC)


def latest_tick(schedule: Any, first: datetime, now: datetime, oldest: datetime) -> datetime:
    """Of the ticks from `first` until `now` the latest, if it is not older than `oldest`; else any older one.

    Not in steps: a schedule of every second that slept over a week-end has passed 200,000 ticks.
    """
    if isinstance(schedule, Every):
        every: timedelta = schedule.run_every
        return first + (now - first) // every * every
    later = tick_after(schedule, oldest)
    return later if first < later <= now else first
