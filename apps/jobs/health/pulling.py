"""Workers that take their jobs straight from the ledger (`manage.py work`) need no relay, and no broker."""

from django.conf import settings
from django.db.models import Max
from django.db.models.functions import Now

from apps.jobs.models import Worker
from apps.jobs.pull import POOL


def live_workers() -> list[Worker]:
    return list(Worker.objects.filter(stopped_at=None, heartbeat_at__gt=Now() - settings.JOBS_LEASE))


def last_workers() -> list[Worker]:
    """Those that live. Where none does, those that did when the last of them was heard from: an installation is what it
    was, also while its workers are away. Nobody remembers longer than `apps.jobs.retention` keeps them, a week.
    """
    workers = live_workers()
    last = None if workers else Worker.objects.aggregate(last=Max("heartbeat_at"))["last"]
    if last is not None:
        workers = list(Worker.objects.filter(heartbeat_at__gt=last - settings.JOBS_LEASE))
    return workers


def all_pull() -> bool:
    """Where there has never been a worker, nobody has chosen to do without a relay."""
    workers = last_workers()
    return bool(workers) and all(worker.pool == POOL for worker in workers)


def relayed_queues() -> list[str]:
    """Those whose jobs go to a broker."""
    pulled = {queue for worker in last_workers() if worker.pool == POOL for queue in worker.queues}
    return [queue for queue in settings.JOBS_QUEUES if queue not in pulled]
