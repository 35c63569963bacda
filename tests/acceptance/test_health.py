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


@pytest.fixture(autouse=True)
def _short_lease(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN
    settings.JOBS_LEASE = timedelta(seconds=float(SHORT_WAITS["JOBS_LEASE_SECONDS"]))


@pytest.fixture
def shared_out(site: Site) -> Site:
    """One worker for the queue low, another for the rest."""
    site.kill9("worker")
    site.start_worker("most", "--queues=default,high,io", concurrency=1)
    site.start_worker("low", "--queues=low", concurrency=1)
    eventually(lambda: not about_workers(), describe=about_workers)
    return site


def about_workers() -> set[tuple[str, str]]:
    """Whether relay and beat are there is another matter."""
    cache.clear()
    answer = Client().get("/health/workers", headers={"Authorization": f"Bearer {TOKEN}"})
    found = {(reason["what"], reason["about"]) for reason in answer.json()["reasons"]}
    return {(what, about) for what, about in found if what in ("no_worker", "not_consuming")}


def test_a_queue_whose_only_worker_is_killed_is_red_until_it_returns(shared_out: Site) -> None:
    shared_out.kill9("low")
    eventually(lambda: about_workers() == {("no_worker", "low")}, timeout=40, describe=about_workers)
    shared_out.start_worker("low", "--queues=low", concurrency=1)
    eventually(lambda: not about_workers(), describe=about_workers)


def test_a_worker_that_was_told_to_stop_listening_is_named(shared_out: Site) -> None:
    celery = [sys.executable, "-m", "celery", "-A", "config", "control", "-d", "low@site", "cancel_consumer", "low"]
    subprocess.run(celery, env={**os.environ, **shared_out.environment}, check=True, capture_output=True)
    Worker.objects.update(started_at="2020-01-01T00:00Z")  # it is past the time in which it may not listen yet
    eventually(lambda: about_workers() == {("not_consuming", "low@site")}, describe=about_workers)


def test_a_worker_without_its_broker_lives_keeps_its_jobs_and_says_that_it_hears_nothing(site: Site, book: Any) -> None:
    eventually(lambda: not about_workers(), describe=about_workers)
    Worker.objects.update(started_at="2020-01-01T00:00Z")
    result = note.delay(book=str(book), seconds=10)
    eventually(lambda: "start" in book.read_text())
    site.valkey.stop()
    eventually(lambda: about_workers() == {("not_consuming", "worker@site")}, describe=about_workers)
    eventually(lambda: "end" in book.read_text())
    site.valkey.start()
    eventually(lambda: not about_workers(), describe=about_workers)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempts, job.crashes) == (Job.State.SUCCEEDED, 1, 0), "its lease ran out"
