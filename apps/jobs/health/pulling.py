"""Workers that take their jobs straight from the ledger (`manage.py work`) need no relay, and no broker."""

from collections.abc import Collection

from django.conf import settings
from django.db.models.functions import Now

from apps.jobs.models import Worker
from apps.jobs.pull import POOL


def live_workers() -> list[Worker]:
    return list(Worker.objects.filter(stopped_at=None, heartbeat_at__gt=Now() - settings.JOBS_LEASE))


def all_pull(workers: Collection[Worker]) -> bool:
    """Where there is no worker at all, nobody has chosen to do without a relay."""
    return bool(workers) and all(worker.pool == POOL for worker in workers)


def relayed_queues() -> list[str]:
    """Those whose jobs go to a broker."""
    pulled = {queue for worker in live_workers() if worker.pool == POOL for queue in worker.queues}
    return [queue for queue in settings.JOBS_QUEUES if queue not in pulled]
