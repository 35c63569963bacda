"""/metrics, for Prometheus: the names that Celery's users know, and what only the ledger knows.

Problem. A counter in a process is one of many: under prefork, and behind several web servers, each scrape meets another
one. An exporter that listens to events is one more process, which forgets when it restarts.

Guarantee. All of it is read from rows when it is asked for, so any web process gives the same answer. Counters never
fall: see `apps.jobs.metrics.counts`. Labels are bounded: tasks and queues by what this code knows, workers by those of
the last minutes.

Not guaranteed. It is as old as the rows: two seconds for counters, ten for workers, five for what a relay has seen.
"""

from collections.abc import Iterator
from itertools import accumulate

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from apps.jobs import connections
from apps.jobs.health.insiders import is_insider
from apps.jobs.metrics import levels
from apps.jobs.metrics.counts import BOUNDS
from apps.jobs.models import TaskTotal

COUNTED = {
    "celery_task_sent": ("sent", "Messages that a relay handed to the broker."),
    "celery_task_received": ("received", "Messages that a worker took from the broker."),
    "celery_task_started": ("started", "Messages that a worker's pool took up."),
    "celery_task_succeeded": ("succeeded", "Attempts that succeeded."),
    "celery_task_failed": ("failed", "Attempts that failed for good."),
    "celery_task_retried": ("retried", "Attempts after which the job is tried again."),
    "celery_task_revoked": ("revoked", "Jobs that expired, or were cancelled while they ran."),
    "nightshift_jobs_rescued": ("rescued", "Jobs that were handed on because their worker died."),
    "nightshift_messages_duplicate": ("duplicates", "Messages that were dropped: their job was taken, or over."),
    "nightshift_jobs_snoozed": ("snoozed", "Attempts that put their job off."),
}
TIMED = {
    "celery_task_runtime": ("run", "Run time of attempts that succeeded, in seconds."),
    "nightshift_job_wait_seconds": ("wait", "From when a job was due until it was started."),
}
# As celery-exporter calls them.
LABELS = ["name", "queue_name"]


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Names of tasks and workers are no stranger's business."""
    if not is_insider(request):
        raise PermissionDenied
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        return HttpResponse(encode(registry), content_type=content_type)
    except connections.UNREADABLE:
        return HttpResponse("The database cannot be read.", status=503, content_type="text/plain")


class LedgerCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        totals = list(TaskTotal.objects.order_by("task", "queue"))
        yield from _counters(totals)
        yield from _histograms(totals)
        yield from levels.all_levels()


registry = CollectorRegistry()
registry.register(LedgerCollector())


def _counters(totals: list[TaskTotal]) -> Iterator[Metric]:
    for name, (column, said) in COUNTED.items():
        family = CounterMetricFamily(name, said, labels=LABELS)
        for total in totals:
            family.add_metric([total.task, total.queue], getattr(total, column))
        yield family


def _histograms(totals: list[TaskTotal]) -> Iterator[Metric]:
    for name, (kind, said) in TIMED.items():
        family = HistogramMetricFamily(name, said, labels=LABELS)
        for total in totals:
            buckets = cumulative(getattr(total, f"{kind}_buckets"))
            family.add_metric([total.task, total.queue], buckets, getattr(total, f"{kind}_seconds"))
        yield family


def cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket what is in those below as well."""
    return list(zip([*map(str, BOUNDS), "+Inf"], map(float, accumulate(buckets)), strict=True))
