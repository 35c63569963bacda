"""How things stand at this moment, as gauges for /metrics: queues, workers, relay and beat, letters, servers."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, Max
from prometheus_client.core import GaugeMetricFamily, Metric

from apps.jobs import queues
from apps.jobs.clock import database_now
from apps.jobs.health.working import SILENT, troubles
from apps.jobs.ledger import PAUSED
from apps.jobs.metrics.lag import relay_lag
from apps.jobs.models import DeadLetter, Heartbeat, Worker

# A worker that is gone is shown as down for so long, and then no more: else each deploy would leave its names behind.
REMEMBERED = timedelta(minutes=10)
# For what is counted by its age: longer than a few scrapes are apart, and shorter than an alert's memory.
LATELY = timedelta(minutes=15)

# Of those that vacuum has to wait for. Between two statements an ordinary transaction has no snapshot, but once it has
# written it has an id; one that has only read holds nothing up. A parallel worker's is its leader's, which is counted,
# and autovacuum, which takes hours over a large table, waits for nobody of its own kind.
OLDEST_SNAPSHOT = """
    SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::float
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      AND backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
"""


def all_levels() -> Iterator[Metric]:
    now = database_now()
    yield from _queues()
    yield from _promises()
    yield from _workers(now)
    yield from _troubles(now)
    yield from _heartbeats(now)
    yield from _dead_letters(now)
    yield from _servers(now)


def gauge(name: str, said: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
    """`values` by a tuple of what the labels are, in their order."""
    family = GaugeMetricFamily(name, said, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _queues() -> Iterator[Metric]:
    """Those that the settings know: a job's queue may be of another deploy."""
    known = [status for status in queues.statuses() if status.name in settings.JOBS_QUEUES]
    waiting = {(status.name,): float(status.waiting) for status in known}
    yield gauge("celery_queue_length", "Jobs that are due and not started.", ["queue_name"], waiting)
    oldest = {(status.name,): status.oldest or 0.0 for status in known}
    yield gauge("nightshift_queue_oldest_seconds", "Age of the job that has waited longest.", ["queue_name"], oldest)
    states = ("waiting", "later", "running")
    jobs = {(status.name, state): float(getattr(status, state)) for status in known for state in states}
    yield gauge("nightshift_jobs", "Jobs that are not over.", ["queue_name", "state"], jobs)


def _promises() -> Iterator[Metric]:
    """Beside the levels, so that an alert compares the two and holds no number of its own."""
    policies = settings.JOBS_QUEUES.items()
    backlog = {(name,): float(policy.backlog) for name, policy in policies}
    yield gauge("nightshift_queue_backlog_limit", "Jobs that may wait.", ["queue_name"], backlog)
    oldest = {(name,): float(policy.oldest_seconds) for name, policy in policies}
    yield gauge("nightshift_queue_oldest_limit_seconds", "How long a job may wait.", ["queue_name"], oldest)
    paused = set(_rows(PAUSED))
    closed = {(name,): float((name,) in paused) for name in settings.JOBS_QUEUES}
    yield gauge("nightshift_queue_paused", "1 while an operator has paused the queue.", ["queue_name"], closed)


def _workers(now: datetime) -> Iterator[Metric]:
    workers = list(Worker.objects.filter(stopped_at=None, heartbeat_at__gt=now - REMEMBERED))
    up = [worker for worker in workers if worker.heartbeat_at > now - settings.JOBS_LEASE]
    # Two runs of one name: the one that lives counts.
    names = {(worker.name,): 0.0 for worker in workers} | {(worker.name,): 1.0 for worker in up}
    yield gauge("celery_worker_up", "1 for a worker whose heart beats.", ["hostname"], names)
    readers = {(name,): float(sum(name in worker.queues for worker in up)) for name in settings.JOBS_QUEUES}
    yield gauge("celery_active_worker_count", "Workers that read the queue.", ["queue_name"], readers)
    busy = {(worker.name,): float(worker.busy) for worker in up}
    yield gauge("celery_worker_tasks_active", "Jobs that it runs.", ["hostname"], busy)
    size = {(worker.name,): float(worker.size) for worker in up}
    yield gauge("nightshift_worker_size", "Jobs that it can run at once.", ["hostname"], size)


def _troubles(now: datetime) -> Iterator[Metric]:
    found = {(reason.what, reason.about): 1.0 for reason in troubles(now)}
    yield gauge("nightshift_trouble", "1 for each reason of /health/workers.", ["what", "about"], found)


def _heartbeats(now: datetime) -> Iterator[Metric]:
    last = dict(Heartbeat.objects.values_list("process").annotate(Max("heartbeat_at")))
    # One may have beaten since this scrape began.
    ages = {
        (process.value,): max(0.0, (now - last[process]).total_seconds()) if process in last else float("inf")
        for process in Heartbeat.Process
    }
    yield gauge("nightshift_heartbeat_age_seconds", "Since any of these processes was heard from.", ["process"], ages)
    yield gauge(
        "nightshift_relay_lag_seconds",
        "For how long the oldest due job has waited to be sent.",
        [],
        {(): relay_lag()},
    )


def _dead_letters(now: datetime) -> Iterator[Metric]:
    """All that are open, however many: an alert looks at how they grow. 100,000 are counted in 40 ms."""
    is_open = DeadLetter.objects.filter(state=DeadLetter.State.OPEN)
    yield gauge("nightshift_dead_letters_open", "Dead letters that nobody has settled.", [], {(): is_open.count()})
    lately = DeadLetter.objects.filter(created_at__gt=now - LATELY)
    kinds = dict.fromkeys(DeadLetter.Kind.values, 0) | dict(lately.values_list("kind").annotate(Count("pk")))
    recent = {(kind,): float(number) for kind, number in kinds.items()}
    yield gauge("nightshift_dead_letters_recent", "Dead letters of the last 15 minutes.", ["kind"], recent)


def _servers(now: datetime) -> Iterator[Metric]:
    yield gauge(
        "nightshift_oldest_snapshot_seconds",
        "Age of the oldest transaction, which keeps PostgreSQL from clearing up behind the ledger.",
        [],
        {(): _number(OLDEST_SNAPSHOT)},
    )
    # What a relay saw that is gone since, nobody knows any more.
    relays = Heartbeat.objects.filter(process=Heartbeat.Process.RELAY, heartbeat_at__gt=now - SILENT)
    relay = relays.order_by("-heartbeat_at").first()
    seen = relay.seen if relay else {}
    if "memory_used" in seen:
        yield gauge("nightshift_broker_memory_bytes", "Used by the broker.", [], {(): seen["memory_used"]})
        limit = seen["memory_allowed"] or float("inf")
        yield gauge("nightshift_broker_memory_limit_bytes", "Allowed to the broker.", [], {(): limit})


def _rows(query: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _number(query: str, *values: Any) -> float:
    """Nothing is zero."""
    return float(_rows(query, *values)[0][0] or 0.0)
