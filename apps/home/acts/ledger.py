"""The ledger: a job exists if its transaction committed, once a key, and whatever becomes of the broker."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from django.contrib.auth.models import User
from django.db import connection, transaction

import tasks
from apps.home.act import Seen, Started, ids, jobs_of, once_ended, seconds_between, times
from apps.home.acts.cast import PAYS, customer, newest_user, order_of
from apps.home.acts.mischief import record_without_telling, wipe_broker
from apps.jobs.models import Job

THREADS = 10
# A wish for the same job a second later must still meet the first one alive, however quick the workers are.
HEAD_START = 1
# An idle worker starts a job within some 15 ms of the commit; a busy laptop may take more.
SOON = 0.5


def enqueue_and_roll_back(_: User) -> Started:
    with transaction.atomic():
        order = order_of(customer(PAYS))
        job = tasks.charge_customer.delay(order_id=order.pk)
        transaction.set_rollback(True)
    return Started(f"Placed {order}, asked for its charge, and rolled the transaction back.", ids([job.id]))


def left_nothing(job_ids: Sequence[UUID]) -> Seen:
    left = len(jobs_of(job_ids))
    return Seen("The job went with its order: neither exists." if not left else "The job is there.", not left)


def commit_and_start(_: User) -> Started:
    return Started("Committed one job.", ids([tasks.lab_sleep.delay(seconds=0).id]))


@once_ended
def started_soon(jobs: list[Job]) -> Seen:
    waited = seconds_between(jobs[0].created_at, jobs[0].started_at)
    return Seen(f"It was started {1000 * waited:.0f} ms after it was asked for.", waited < SOON)


def lose_the_wake_up(user: User) -> Started:
    job_id = record_without_telling("tasks.lab_sleep", {"seconds": 0}, "default", user)
    return Started("Committed one job, without the notification that wakes the relay.", (job_id,))


@once_ended
def started_by_the_poll(jobs: list[Job]) -> Seen:
    waited = seconds_between(jobs[0].created_at, jobs[0].started_at)
    return Seen(f"The relay's poll found it after {waited:.1f} s.", jobs[0].state == Job.State.SUCCEEDED)


def twenty_jobs(_: User) -> Started:
    jobs = tasks.lab_sleep.delay_many([{"seconds": 0.3, "steps": 1}] * 20)
    return Started("Started 20 jobs in one round trip.", ids(jobs))


def twenty_jobs_and_a_wiped_broker(user: User) -> Started:
    started = twenty_jobs(user)
    _wait_until_sent(started.jobs)
    wiped = wipe_broker()
    return Started(
        f"Started 20 jobs, and wiped the broker (it held {wiped} things) while they were on their way.", started.jobs
    )


def _wait_until_sent(job_ids: Sequence[UUID]) -> None:
    """For a second at most: the relay needs some milliseconds, and without one there is nothing to wipe anyway."""
    deadline = time.monotonic() + 1
    while Job.objects.filter(pk__in=job_ids, state=Job.State.QUEUED).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def count_once(_: User) -> Started:
    return Started("Started a job that starts one other.", ids([tasks.lab_atomic.delay().id]))


def count_and_crash(_: User) -> Started:
    job = tasks.lab_atomic.delay(crash=True)
    return Started("Started a job that starts one other, and dies the first time, just before its end.", ids([job.id]))


@once_ended
def counted_once(jobs: list[Job]) -> Seen:
    [job] = jobs
    children = Job.objects.filter(parent_id=job.pk).count()
    sentence = f"It ended as {job.state}, crashed {times(job.crashes)}, and started another job {times(children)}."
    return Seen(sentence, children == 1 and job.state == Job.State.SUCCEEDED)


def welcome_twice(user: User) -> Started:
    reader = newest_user(besides=user)
    wishes = [_welcome(reader.pk) for _ in range(2)]
    return Started(f"Asked twice for {reader}'s welcome mail.", tuple(wishes))


def welcome_from_ten_threads(user: User) -> Started:
    reader = newest_user(besides=user)
    with ThreadPoolExecutor(THREADS) as pool:
        wishes = pool.map(_welcome_on_own_connection, [reader.pk] * THREADS)
    return Started(f"Asked for {reader}'s welcome mail from {THREADS} threads at once.", tuple(wishes))


def _welcome(user_id: int) -> UUID:
    return UUID(tasks.send_welcome_email.apply_async(kwargs={"user_id": user_id}, countdown=HEAD_START).id)


def _welcome_on_own_connection(user_id: int) -> UUID:
    try:
        return _welcome(user_id)
    finally:
        connection.close()


@once_ended
def one_job(jobs: list[Job]) -> Seen:
    made = len({job.pk for job in jobs})
    return Seen(f"{len(jobs)} wishes, {'one job' if made == 1 else f'{made} jobs'}.", made == 1)
