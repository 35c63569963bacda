"""What a worker says of itself beside its leases: which queues it listens to, and when it last took up a message.

Problem. A worker whose heart beats may still do nothing: its connection to the broker is gone or dead, or somebody has
told it to stop consuming a queue. Celery's own `inspect` asks all workers over the broker, and waits for each.

Guarantee. Every worker notes both in its row, at least three times in a lease's length.

Not guaranteed. One with a solo pool says nothing new while it runs a job; it counts as busy meanwhile.
"""

import logging
from functools import partial
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready
from celery.worker import state
from django.db import connection
from django.db.models.functions import Now

from apps.jobs import connections, lease
from apps.jobs.models import Worker

logger = logging.getLogger(__name__)


class LivenessStep(bootsteps.StartStopStep):
    requires = ("celery.worker.components:Timer", "apps.jobs.lease:LeaseStep")

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.taken_up = 0

    def start(self, parent: Any) -> None:
        parent.timer.call_repeatedly(lease.renew_every(), self.tell, (parent,))
        # At once, too: one that is killed before its first beat has been there, and has listened.
        worker_ready.connect(partial(self._tell_that_it_is_ready, parent), weak=False)

    def _tell_that_it_is_ready(self, parent: Any, **_: Any) -> None:
        self.tell(parent)

    def tell(self, parent: Any) -> None:
        try:
            connections.refresh()
            Worker.objects.filter(pk=lease.worker_id()).update(consuming=queues_of(parent.consumer), **self._took_up())
        except connections.LOST as exc:
            logger.warning("Nobody was told what is consumed: %s", str(exc).strip())
            connection.close()

    def _took_up(self) -> dict[str, Any]:
        before, self.taken_up = self.taken_up, state.all_total_count[0]
        return {"took_up_at": Now()} if self.taken_up > before else {}


def queues_of(consumer: Any) -> list[str]:
    """None while there is no connection to the broker."""
    if not (consumer.connection and consumer.connection.connected and consumer.task_consumer):
        return []
    return sorted(queue.name for queue in consumer.task_consumer.queues)
