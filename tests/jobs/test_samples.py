"""Samples: the worst of each minute, whoever looked."""

import time
from contextlib import closing
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from apps.jobs import retention
from apps.jobs.metrics import samples
from apps.jobs.models import FleetMinute, Job, QueueMinute, Worker
from tests.jobs.sessions import Session

pytestmark = pytest.mark.django_db


def a_worker(**fields: object) -> Worker:
    return Worker.objects.create(**{"name": "w", "pid": 1, "queues": ["high"], "pool": "prefork", **fields})


def test_a_minute_keeps_the_worst_that_anyone_saw() -> None:
    job = Job.objects.create(task="tasks.lab_sleep", queue="high", run_at=timezone.now() - timedelta(seconds=30))
    samples.take()
    job.delete()
    samples.take()
    row = QueueMinute.objects.order_by("minute").get(queue="high", waiting__gt=0)
    assert (row.waiting, row.running) == (1, 0)
    assert row.oldest >= 30


def test_the_share_of_busy_slots_is_a_mean_however_many_look() -> None:
    worker = a_worker(size=4, busy=4)
    samples.take()
    Worker.objects.filter(pk=worker.pk).update(busy=0)
    samples.take()
    rows = FleetMinute.objects.all()
    assert sum(row.busy for row in rows) / sum(row.size for row in rows) == 0.5


def test_a_worker_that_is_gone_has_no_slots() -> None:
    a_worker(size=4, stopped_at=timezone.now())
    a_worker(size=4, heartbeat_at=timezone.now() - timedelta(minutes=5))
    samples.take()
    assert FleetMinute.objects.get().size == 0


@pytest.mark.django_db(transaction=True)
def test_whoever_holds_the_rows_of_a_sample_does_not_hold_the_relay() -> None:
    samples.take()
    with closing(Session()) as person, closing(Session(lock_timeout="5s")) as relay:
        person.begin()
        with person.current(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_queueminute IN SHARE MODE")
        began = time.monotonic()
        with relay.current():
            samples.take()
        assert time.monotonic() - began < 4


def test_old_samples_are_swept_and_new_ones_stay() -> None:
    long_ago = timezone.now() - timedelta(days=30)
    QueueMinute.objects.create(minute=long_ago, queue="high", waiting=1, running=0, oldest=1)
    FleetMinute.objects.create(minute=long_ago, busy=1, size=1)
    samples.take()
    assert retention.sweep().minutes == 2
    assert QueueMinute.objects.exists()
    assert FleetMinute.objects.exists()
