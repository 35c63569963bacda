"""A worker of green threads, as the Procfile starts it: many jobs at once, and nothing left over from them."""

import psutil
import pytest
from django.db.models import Max, Min

from apps.jobs.models import Job
from tasks.lab import lab_sleep
from tests.acceptance.misbehaviour import wait_for_the_database
from tests.acceptance.site import Site, eventually

JOBS = 60
SECONDS = 1.0
# The worker has some of its own, for its lease and its counts: how many at a moment is its timers' affair.
FEW = JOBS / 6


@pytest.fixture
def green_worker(site: Site) -> str:
    site.terminate("worker")
    site.start_worker("io", "--pool=gevent", "--queues=io", concurrency=100)
    return "io"


def sessions(site: Site, worker: str) -> int:
    """How many connections to PostgreSQL the worker holds."""
    process = psutil.Process(site.pid(worker))
    return sum(bool(each.raddr) and each.raddr.port == site.postgres.port for each in process.net_connections("tcp"))


def spread(site: Site, worker: str, ids: list[str]) -> float:
    """Seconds from the first one's start to the last one's end."""
    jobs = Job.objects.filter(pk__in=ids)
    eventually(
        lambda: jobs.filter(state=Job.State.SUCCEEDED).count() == len(ids), describe=lambda: site.last_words(worker)
    )
    span = jobs.aggregate(start=Min("started_at"), end=Max("finished_at"))
    return float((span["end"] - span["start"]).total_seconds())


def test_jobs_that_only_wait_wait_together_and_close_what_they_opened(site: Site, green_worker: str) -> None:
    """One process; with one job after the other they would take a minute."""
    ids = lab_sleep.delay_many([{"seconds": SECONDS, "steps": 1} for _ in range(JOBS)], queue="io")
    assert spread(site, green_worker, ids) < JOBS * SECONDS / 3
    eventually(lambda: sessions(site, green_worker) < FEW, describe=lambda: sessions(site, green_worker))


def test_a_job_that_waits_for_the_database_holds_up_no_other(site: Site, green_worker: str) -> None:
    """A driver that waits in C code would stop the whole process."""
    ids = wait_for_the_database.delay_many([{"seconds": SECONDS} for _ in range(20)], queue="io")
    assert spread(site, green_worker, ids) < 20 * SECONDS / 2
