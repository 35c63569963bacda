"""/metrics, checked against traffic that is known."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from apps.jobs import queues
from apps.jobs.health.heartbeats import Heart
from apps.jobs.metrics import counts, levels
from apps.jobs.metrics.counts import COUNTERS
from apps.jobs.models import Heartbeat, Job, Worker
from tasks.lab import lab_add, lab_fail
from tests.jobs.bench import Bench

pytestmark = pytest.mark.django_db

TOKEN = {"Authorization": "Bearer a-token-for-tests"}
ADD = {"name": "tasks.lab_add", "queue_name": "default"}


@pytest.fixture(autouse=True)
def _token_and_nothing_counted(settings: Any) -> None:
    settings.METRICS_TOKEN = "a-token-for-tests"
    counts._tallies.take()


def scrape() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = Client().get("/metrics", headers=TOKEN)
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(name: str, /, **labels: str) -> float | None:
    return scrape().get((name, frozenset(labels.items())))


def test_every_counter_of_a_task_is_what_was_counted() -> None:
    for number, counter in enumerate(COUNTERS, start=1):
        counts.count(counter, "tasks.lab_add", "default", number)
    counts.write()
    names = """celery_task_sent_total celery_task_received_total celery_task_started_total celery_task_succeeded_total
        celery_task_failed_total celery_task_retried_total celery_task_revoked_total nightshift_jobs_rescued_total
        nightshift_messages_duplicate_total nightshift_jobs_snoozed_total""".split()
    assert [value(name, **ADD) for name in names] == list(range(1, len(COUNTERS) + 1))


def test_a_histogram_counts_in_each_bucket_what_is_in_those_below() -> None:
    for seconds in (0.02, 0.3, 7_200):
        counts.observe("run", "tasks.lab_add", "default", seconds)
        counts.observe("wait", "tasks.lab_add", "default", seconds)
    counts.write()
    for name in ("celery_task_runtime", "nightshift_job_wait_seconds"):
        buckets = {le: value(f"{name}_bucket", **ADD, le=le) for le in ("0.01", "0.025", "0.5", "3600.0", "+Inf")}
        assert buckets == {"0.01": 0, "0.025": 1, "0.5": 2, "3600.0": 2, "+Inf": 3}
        assert value(f"{name}_count", **ADD) == 3
        assert value(f"{name}_sum", **ADD) == pytest.approx(7_200.32)


def test_what_was_counted_survives_the_minutes_it_was_counted_in() -> None:
    from apps.jobs.models import TaskMinute
    from apps.jobs.retention import sweep

    counts.count("failed", "tasks.lab_add", "default", 3)
    counts.write()
    TaskMinute.objects.update(minute=timezone.now() - timedelta(days=30))
    assert sweep().minutes == 1
    assert value("celery_task_failed_total", **ADD) == 3


def test_jobs_are_shown_by_queue_and_state(bench: Bench) -> None:
    lab_add.delay_many([{"x": x, "y": 1} for x in range(3)])
    lab_add.apply_async(kwargs={"x": 1, "y": 1}, countdown=3_600)
    Job.objects.filter(run_at__lte=timezone.now()).update(run_at=timezone.now() - timedelta(seconds=50))
    assert value("celery_queue_length", queue_name="default") == 3
    assert value("celery_queue_length", queue_name="low") == 0
    assert value("nightshift_jobs", queue_name="default", state="later") == 1
    assert 50 <= (value("nightshift_queue_oldest_seconds", queue_name="default") or 0) < 110
    assert 50 <= (value("nightshift_relay_lag_seconds") or 0) < 110
    bench.send()
    assert value("nightshift_relay_lag_seconds") == 0
    assert value("celery_queue_length", queue_name="default") == 3


def test_a_queue_that_the_settings_do_not_know_is_no_label() -> None:
    Job.objects.create(task="tasks.lab_add", queue="of-another-deploy")
    assert not any("of-another-deploy" in dict(labels).values() for _, labels in scrape())


def test_limits_and_pauses_stand_beside_what_they_limit() -> None:
    queues.pause("low")
    assert [value("nightshift_queue_paused", queue_name=name) for name in ("low", "high")] == [1, 0]
    assert value("nightshift_queue_oldest_limit_seconds", queue_name="high") == 10
    assert value("nightshift_queue_backlog_limit", queue_name="high") == 1_000


def test_workers_are_up_and_then_down_and_then_forgotten() -> None:
    def worker(name: str, silent_for: float) -> None:
        at = timezone.now() - timedelta(seconds=silent_for)
        Worker.objects.create(name=name, pid=1, queues=["default"], heartbeat_at=at, busy=2, size=4)

    worker("fresh@here", 1)
    worker("gone@here", 60)
    worker("gone@here", 1)  # started again under the same name
    worker("dead@here", 60)
    worker("long-gone@here", 3_600)
    up = {labels: number for (name, labels), number in scrape().items() if name == "celery_worker_up"}
    assert {dict(labels)["hostname"]: number for labels, number in up.items()} == {
        "fresh@here": 1,
        "gone@here": 1,
        "dead@here": 0,
    }
    assert value("celery_active_worker_count", queue_name="default") == 2
    assert value("celery_active_worker_count", queue_name="low") == 0
    assert value("celery_worker_tasks_active", hostname="fresh@here") == 2
    assert value("nightshift_worker_size", hostname="fresh@here") == 4


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_here_ages_nobody() -> None:
    for name, silent_for in (("fresh@here", 1), ("dead@here", 31)):
        at = Now() - timedelta(seconds=silent_for)
        Worker.objects.create(name=name, pid=1, queues=["default"], heartbeat_at=at)
    Heart(Heartbeat.Process.BEAT).beat()
    assert [value("celery_worker_up", hostname=name) for name in ("fresh@here", "dead@here")] == [1, 0]
    assert 0 <= (value("nightshift_heartbeat_age_seconds", process="beat") or 0) < 30


def test_the_reasons_of_the_health_page_are_shown() -> None:
    assert value("nightshift_trouble", what="no_worker", about="low") == 1
    assert value("nightshift_trouble", what="relay_silent", about="relay") == 1


def test_a_process_that_was_never_there_is_silent_for_ever() -> None:
    Heart(Heartbeat.Process.BEAT).beat()
    assert 0 <= (value("nightshift_heartbeat_age_seconds", process="beat") or 0) < 60
    assert value("nightshift_heartbeat_age_seconds", process="relay") == float("inf")


def test_dead_letters_are_counted_open_and_by_kind(bench: Bench) -> None:
    lab_fail.delay()
    bench.run_all()
    assert value("nightshift_dead_letters_open") == 1
    assert value("nightshift_dead_letters_recent", kind="permanent") == 1
    assert value("nightshift_dead_letters_recent", kind="crashed") == 0


def test_a_transaction_that_somebody_left_open_after_a_write_is_shown() -> None:
    from tests.jobs.sessions import Session

    def oldest_snapshot() -> float | None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")  # PostgreSQL looks once in a transaction, as a test is
        return value("nightshift_oldest_snapshot_seconds")

    forgotten = Session()
    forgotten.begin()
    try:
        with forgotten.current():
            Job.objects.count()
        assert oldest_snapshot() == 0, "it has only read, and nothing waits for it"
        with forgotten.current():
            Job.objects.create(task="tasks.lab_add", queue="default")
        assert (oldest_snapshot() or 0) > 0
    finally:
        forgotten.close()
    assert oldest_snapshot() == 0


def test_the_brokers_memory_is_what_a_relay_saw() -> None:
    relay = Heart(Heartbeat.Process.RELAY)
    relay.seen = {"memory_used": 5_000, "memory_allowed": 0}
    relay.beat()
    assert value("nightshift_broker_memory_bytes") == 5_000
    assert value("nightshift_broker_memory_limit_bytes") == float("inf")


def test_what_a_relay_saw_that_is_gone_is_not_shown() -> None:
    relay = Heart(Heartbeat.Process.RELAY)
    relay.seen = {"memory_used": 5_000, "memory_allowed": 5_000}
    relay.beat()
    Heartbeat.objects.update(heartbeat_at=Now() - timedelta(seconds=31))
    assert value("nightshift_broker_memory_bytes") is None
    assert value("nightshift_broker_memory_limit_bytes") is None


def test_a_relay_looks_at_the_brokers_memory(valkey: Any) -> None:
    from celery import current_app

    from apps.jobs.metrics.broker_memory import memory

    seen = memory(current_app)
    assert seen["memory_used"] > 0
    assert seen["memory_allowed"] >= 0


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer another"])
def test_strangers_are_refused(client: Client, token: str) -> None:
    assert client.get("/metrics", headers={"Authorization": token}).status_code == 403


def test_staff_may_look_and_nobody_may_write(admin_client: Client) -> None:
    assert admin_client.get("/metrics").status_code == 200
    assert admin_client.post("/metrics").status_code == 405


def test_a_scrape_without_a_database_fails_as_a_scrape(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise OperationalError("connection refused")

    monkeypatch.setattr(levels, "all_levels", away)
    assert client.get("/metrics", headers=TOKEN).status_code == 503
