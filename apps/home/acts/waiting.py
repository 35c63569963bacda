"""Jobs that wait: until a time, until they say so themselves, until the next tick."""

import time
from datetime import timedelta
from uuid import NAMESPACE_OID, uuid5

from django.contrib.auth.models import User
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

import tasks
from apps.home.act import CannotPlay, Seen, Started, ids, of_jobs, once_ended, seconds_between, times
from apps.home.acts.cast import newest_user
from apps.jobs import ledger
from apps.jobs.models import Job
from apps.jobs.ticks import next_tick

DELAY = 5
NAP = 2
SLEEPERS = 50


def remind_later(user: User) -> Started:
    reader = newest_user(besides=user)
    job = tasks.send_reminder.apply_async(kwargs={"user_id": reader.pk}, countdown=DELAY)
    return Started(f"Asked for a reminder to {reader} in {DELAY} s.", ids([job.id]))


@of_jobs
def on_time(jobs: list[Job]) -> Seen:
    [job] = jobs
    if job.started_at is None:
        return Seen(f"Due in {max(0, (job.run_at - timezone.now()).total_seconds()):.0f} s.")
    waited = seconds_between(job.created_at, job.started_at)
    return Seen(f"It was started {waited:.1f} s after it was asked for.", waited >= DELAY)


def remind_and_cancel(user: User) -> Started:
    started = remind_later(user)
    ledger.cancel(started.jobs[0])
    return Started(f"{started.did} Then cancelled it.", started.jobs)


def snooze(_: User) -> Started:
    job = tasks.lab_snooze.delay(until=time.time() + NAP)
    return Started(f"Started a job that is {NAP} s too early.", ids([job.id]))


def snooze_together(_: User) -> Started:
    jobs = tasks.lab_snooze.delay_many([{"until": time.time() + NAP}] * SLEEPERS)
    return Started(f"Started {SLEEPERS} jobs that are all {NAP} s too early.", ids(jobs))


@once_ended
def came_back(jobs: list[Job]) -> Seen:
    waited = min(seconds_between(job.created_at, job.started_at) for job in jobs)
    retries = sum(job.retries for job in jobs)
    # By what each was told, for it was told a moment before it was written.
    on_time = all(job.started_at and job.started_at.timestamp() >= job.kwargs["until"] - 0.05 for job in jobs)
    held = on_time and retries == 0 and all(job.state == Job.State.SUCCEEDED for job in jobs)
    return Seen(f"Done after {waited:.1f} s; no worker waited, and {retries or 'no'} retry was used.", held)


@of_jobs
def cancelled(jobs: list[Job]) -> Seen:
    [job] = jobs
    held = job.state == Job.State.CANCELLED and job.attempts == 0
    return Seen("It is cancelled, and will not be sent." if held else f"It is {job.state}.", held)


def tick_now(_: User) -> Started:
    schedule = _schedule("tasks.sync_external_data")
    left = (next_tick(schedule) or timezone.now()) - timezone.now()
    job = tasks.sync_external_data.delay()
    return Started(f"Ran “{schedule.name}” now. By its schedule it is next due in {_in_words(left)}.", ids([job.id]))


def tick_twice(_: User) -> Started:
    """What two beats would do, if both thought that they lead: each asks for the same tick."""
    schedule = _schedule("tasks.sync_external_data")
    tick = str(uuid5(NAMESPACE_OID, f"{schedule.name} {timezone.now():%Y-%m-%d %H:%M:%S}"))
    jobs = [tasks.sync_external_data.apply_async(task_id=tick).id for _ in range(2)]
    return Started(f"Two beats asked for the same tick of “{schedule.name}”.", ids(jobs))


@once_ended
def ticked(jobs: list[Job]) -> Seen:
    runs = len({job.pk for job in jobs})
    held = runs == 1 and jobs[0].state == Job.State.SUCCEEDED
    return Seen(f"It was run {times(runs)}, and ended as {jobs[0].state}.", held)


def _schedule(task: str) -> PeriodicTask:
    found = PeriodicTask.objects.filter(task=task).first()
    if found is None:
        raise CannotPlay(f"There is no schedule for {task}. `manage.py migrate` writes them down.")
    return found


def _in_words(left: timedelta) -> str:
    seconds = max(0, int(left.total_seconds()))
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
