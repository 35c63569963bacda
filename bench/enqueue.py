"""What `.delay()` costs the process that asks. Nobody publishes or runs the jobs meanwhile."""

import time
from collections.abc import Callable

from django.db import connection, transaction

from bench import plain, tasks
from bench.rounds import Measure, Sizes, alternate


def measure(sizes: Sizes) -> list[Measure]:
    one, together = sizes.enqueued, sizes.enqueued_together
    by_plain, without_results, singly, undisked, in_transaction, many = alternate(
        sizes.enqueue_rounds,
        (rate_of(plain_one_by_one), one),
        (rate_of(plain_without_results), one),
        (rate_of(one_by_one), one),
        (rate_of(one_by_one_not_on_disk), one),
        (rate_of(in_one_transaction), one),
        (rate_of(all_together), together),
    )
    return [
        Measure("enqueue one", "jobs/s", by_plain, singly, ratio_target=1.2),
        Measure("enqueue one, not waiting for the disk", "jobs/s", by_plain, undisked, ratio_target=1.2),
        Measure("enqueue one, inside a transaction", "jobs/s", by_plain, in_transaction),
        Measure("enqueue one, plain without results", "jobs/s", without_results, singly),
        Measure(f"enqueue {together:,} at once", "jobs/s", by_plain, many, ratio_target=8.0),
    ]


def rate_of(enqueue: Callable[[int], None]) -> Callable[[int], float]:
    def rate(jobs: int) -> float:
        began = time.perf_counter()
        enqueue(jobs)
        seconds = time.perf_counter() - began
        forget_jobs()
        return jobs / seconds

    return rate


def plain_one_by_one(jobs: int) -> None:
    for _ in range(jobs):
        plain.nothing.delay()


def plain_without_results(jobs: int) -> None:
    for _ in range(jobs):
        plain.nothing_late.delay()


def one_by_one(jobs: int) -> None:
    for _ in range(jobs):
        tasks.nothing.delay()


def one_by_one_not_on_disk(jobs: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        one_by_one(jobs)
        cursor.execute("RESET synchronous_commit")


def in_one_transaction(jobs: int) -> None:
    with transaction.atomic():
        one_by_one(jobs)


def all_together(jobs: int) -> None:
    tasks.nothing.delay_many([{}] * jobs)


def forget_jobs() -> None:
    plain.app.control.purge()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE jobs_job")
