"""What /health/workers says of real workers that are killed, deaf or cut off."""

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from apps.jobs.models import Job, Worker
from tests.acceptance.misbehaviour import note
from tests.acceptance.site import SHORT_WAITS, Site, eventually

TOKEN = "a-token-for-tests"
# Past the time in which a worker need not listen yet.
LONG_AGO = "2020-01-01T00:00Z"


@pytest.fixture(autouse=True)
def _short_lease(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN
    settings.JOBS_LEASE = timedelta(seconds=float(SHORT_WAITS["JOBS_LEASE_SECONDS"]))


def about_workers() -> set[tuple[str, str]]:
    """Whether relay and beat are there is another matter."""
    cache.clear()
    answer = Client().get("/health/workers", headers={"Authorization": f"Bearer {TOKEN}"})
    found = {(reason["what"], reason["about"]) for reason in answer.json()["reasons"]}
    return {(what, about) for what, about in found if what in ("no_worker", "not_consuming")}


def test_a_queue_whose_only_worker_is_killed_is_red_until_it_returns(site: Site) -> None:
    site.kill9("worker")
    site.start_worker("most", "--queues=default,high,io", concurrency=1)
    site.start_worker("low", "--queues=low", concurrency=1)
    eventually(lambda: not about_workers(), describe=about_workers)
    site.kill9("low")
    eventually(lambda: about_workers() == {("no_worker", "low")}, timeout=40, describe=about_workers)
    site.start_worker("low", "--queues=low", concurrency=1)
    eventually(lambda: not about_workers(), describe=about_workers)


def test_a_worker_that_was_told_to_stop_listening_is_named_until_it_listens_again(site: Site) -> None:
    Worker.objects.update(started_at=LONG_AGO)
    tell_worker(site, "cancel_consumer")
    eventually(lambda: about_workers() == {("not_consuming", "worker@site")}, describe=about_workers)
    tell_worker(site, "add_consumer")
    eventually(lambda: not about_workers(), describe=about_workers)


def tell_worker(site: Site, what: str) -> None:
    celery = [sys.executable, "-m", "celery", "-A", "config"]
    control = ["control", "--destination", "worker@site", "--timeout", "30", what, "low"]
    subprocess.run([*celery, *control], env={**os.environ, **site.environment}, check=True, capture_output=True)


def test_a_worker_without_its_broker_lives_keeps_its_jobs_and_says_that_it_hears_nothing(site: Site, book: Any) -> None:
    eventually(lambda: not about_workers(), describe=about_workers)
    Worker.objects.update(started_at=LONG_AGO)
    result = note.delay(book=str(book), seconds=10)
    eventually(lambda: "start" in book.read_text())
    site.valkey.stop()
    eventually(lambda: about_workers() == {("not_consuming", "worker@site")}, describe=about_workers)
    eventually(lambda: "end" in book.read_text())
    site.valkey.start()
    eventually(lambda: not about_workers(), describe=about_workers)
    job = eventually(lambda: Job.objects.filter(pk=result.id, state=Job.State.SUCCEEDED).first())
    assert (job.attempts, job.crashes) == (1, 0), "its lease ran out"
