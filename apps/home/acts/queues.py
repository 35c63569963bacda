"""Queues: the urgent one is quick, a full one says so, a paused one keeps its jobs."""

from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone

import tasks
from apps.home.act import Seen, Started, ids, of_jobs, once_ended, seconds_between
from apps.jobs import queues
from apps.jobs.models import Job

FLOOD = 100
PAUSE = timedelta(seconds=3)
# The promise of the queue `high`: somebody waits in front of a screen.
QUICK = 2.0


def urgent(user: User) -> Started:
    job = tasks.critical_password_reset.delay(user_id=user.pk)
    return Started("Asked for your password reset, on the queue high.", ids([job.id]))


def urgent_behind_a_flood(_: User) -> Started:
    tasks.lab_sleep.delay_many([{"seconds": 0.1, "steps": 1}] * FLOOD, queue="low")
    job = tasks.lab_sleep.apply_async(kwargs={"seconds": 0}, queue="high")
    return Started(f"Put {FLOOD} jobs on the queue low, and then one on high.", ids([job.id]))


@of_jobs
def urgent_was_quick(jobs: list[Job]) -> Seen:
    [job] = jobs
    if job.started_at is None:
        return Seen("It has not been started yet.")
    waited = seconds_between(job.created_at, job.started_at)
    behind = queues.depth("low", at_most=10 * FLOOD)
    return Seen(f"It was started after {waited:.2f} s. {behind} jobs are waiting on low now.", waited < QUICK)


def fifty_at_once(_: User) -> Started:
    return Started("Started 50 jobs in one round trip.", ids(tasks.lab_sleep.delay_many([{"seconds": 0}] * 50)))


def more_than_fits(_: User) -> Started:
    """Raises QueueFull, and has written nothing."""
    depth = settings.JOBS_QUEUES["high"].max_depth
    jobs = tasks.lab_sleep.delay_many([{"seconds": 0}] * (depth + 1), queue="high")
    return Started(f"The queue high took {len(jobs)} jobs, more than it may hold.", ids(jobs[:1]))


def start_while_paused(user: User) -> Started:
    _pause_low(user)
    job = tasks.lab_sleep.apply_async(kwargs={"seconds": 0}, queue="low")
    return Started(f"Paused the queue low for {PAUSE.seconds} s, and then put a job on it.", ids([job.id]))


def pause_in_full_flight(user: User) -> Started:
    jobs = tasks.lab_sleep.delay_many([{"seconds": 0.5}] * 40, queue="low")
    _pause_low(user)
    return Started(f"Put 40 jobs on the queue low, and paused it for {PAUSE.seconds} s a moment later.", ids(jobs))


def _pause_low(user: User) -> None:
    queues.pause("low", "shown on the home page", until=timezone.now() + PAUSE, by=user)


@once_ended
def waited_for_the_resume(jobs: list[Job]) -> Seen:
    waited = [seconds_between(job.created_at, job.started_at) for job in jobs]
    # The pause began a moment before the first job, or a moment after the last.
    kept = sum(seconds > PAUSE.seconds - 1 for seconds in waited)
    good = all(job.state == Job.State.SUCCEEDED for job in jobs)
    return Seen(f"All have ended; {kept} of {len(jobs)} waited {PAUSE.seconds} s for the resume.", good and kept > 0)
