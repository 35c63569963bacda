"""How fast a worker with a pool of two processes gets through jobs that do nothing.

Counted from 10 % to 95 % of the jobs done, so that neither the first fetch nor the wait for the last job counts.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from django.db import connection

from apps.local.waiting import wait_for
from bench import disk, plain, tasks
from bench.enqueue import forget_jobs
from bench.fleet import Fleet, Worker
from bench.rounds import Measure, Sizes, alternate

FIRST, LAST = 0.10, 0.95
# So slow is only a worker that has stopped.
PATIENCE = 120.0
# Often enough to meet both ends of a round, seldom enough to leave the processor to the workers.
LOOK_EVERY = 0.02

FINISHED = "SELECT extract(epoch FROM finished_at)::float FROM jobs_job WHERE state = 'succeeded' ORDER BY finished_at"

# So many jobs were done at that time, in seconds.
Sample = tuple[float, int]


class NotDrained(Exception):
    """Jobs are left that nobody runs; the logs say why."""


@dataclass(frozen=True)
class Drained:
    rate: float  # jobs a second
    cpu: float  # of the worker and its pool, in milliseconds a job


def measure(fleet: Fleet, sizes: Sizes) -> list[Measure]:
    by_plain, published, not_on_disk, unpublished = alternate(
        sizes.drain_rounds,
        (partial(drain_plain, fleet.plain), sizes.drained),
        (partial(drain_published, fleet.nightshift), sizes.drained),
        (partial(drain_not_on_disk, fleet.nightshift), sizes.drained),
        (partial(drain_unpublished, fleet.nightshift), sizes.drained),
    )
    plain_rates = rates(by_plain)
    return [
        Measure("drain, prefork of 2", "jobs/s", plain_rates, rates(published), ratio_target=0.6),
        Measure("drain, not waiting for the disk", "jobs/s", plain_rates, rates(not_on_disk), ratio_target=0.6),
        Measure("drain, while the relay publishes", "jobs/s", plain_rates, rates(unpublished)),
        Measure("drain, processor time of the worker", "ms/job", cpu(by_plain), cpu(published)),
    ]


def rates(rounds: Iterable[Drained]) -> list[float]:
    return [drained.rate for drained in rounds]


def cpu(rounds: Iterable[Drained]) -> list[float]:
    return [drained.cpu for drained in rounds]


def drain_plain(worker: Worker, jobs: int) -> Drained:
    with plain.app.producer_pool.acquire(block=True) as producer, producer.batch():
        for _ in range(jobs):
            plain.nothing_late.apply_async(producer=producer)
    done: list[Sample] = []
    with plain.app.connection_for_read() as broker:
        client = broker.default_channel.client

        def all_done() -> bool:
            done.append((time.monotonic(), jobs - client.llen(worker.queue) - client.hlen("unacked")))
            return done[-1][1] == jobs

        before = worker.cpu_seconds()
        with worker.consuming():
            wait_until(all_done)
    first, last = (next(sample for sample in done if sample[1] >= share * jobs) for share in (FIRST, LAST))
    return Drained(rate_between(first, last), milliseconds_a_job(worker, before, jobs))


def drain_published(worker: Worker, jobs: int) -> Drained:
    """The relay has published everything before the worker may start."""
    tasks.nothing.delay_many([{}] * jobs)
    wait_until(lambda: count("queued") == 0)
    before = worker.cpu_seconds()
    with worker.consuming():
        wait_until(lambda: count("succeeded") == jobs)
    return Drained(rate_in_ledger(), milliseconds_a_job(worker, before, jobs))


def drain_not_on_disk(worker: Worker, jobs: int) -> Drained:
    with disk.not_waited_for():
        return drain_published(worker, jobs)


def drain_unpublished(worker: Worker, jobs: int) -> Drained:
    """The worker waits already, and shares the machine with the relay."""
    before = worker.cpu_seconds()
    with worker.consuming():
        tasks.nothing.delay_many([{}] * jobs)
        wait_until(lambda: count("succeeded") == jobs)
    return Drained(rate_in_ledger(), milliseconds_a_job(worker, before, jobs))


def rate_in_ledger() -> float:
    with connection.cursor() as cursor:
        cursor.execute(FINISHED)
        finished = [row[0] for row in cursor.fetchall()]
    forget_jobs()
    first, last = int(FIRST * len(finished)), int(LAST * len(finished))
    return rate_between((finished[first], first), (finished[last], last))


def rate_between(first: Sample, last: Sample) -> float:
    """Jobs a second. Of a few jobs that all end between two looks, the least that it can have been."""
    if first == last:
        return last[1] / LOOK_EVERY
    return (last[1] - first[1]) / (last[0] - first[0])


def milliseconds_a_job(worker: Worker, before: float, jobs: int) -> float:
    return (worker.cpu_seconds() - before) * 1000 / jobs


def count(state: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM jobs_job WHERE state = %s", [state])
        return int(cursor.fetchone()[0])


def wait_until(condition: Callable[[], bool]) -> None:
    if not wait_for(condition, PATIENCE, every=LOOK_EVERY):
        raise NotDrained(f"Jobs are left after {PATIENCE:.0f} s.")
