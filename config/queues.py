"""The queues, and which task goes where.

Queues are named by how soon their jobs must start, because that is the promise an operator can watch. `io` is the
exception: its jobs wait for third parties and hardly use the processor, so one gevent worker runs a hundred of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu import Exchange, Queue


@dataclass(frozen=True)
class QueuePolicy:
    """What a queue promises.

    max_depth: jobs that may wait; past it `.delay()` raises `QueueFull`.
    oldest_seconds, backlog: how old the oldest waiting job may be, and how many may wait, before an operator wants to
    know.
    """

    max_depth: int
    oldest_seconds: int
    backlog: int = 5_000


# A tenth of what is refused is early enough to act, and late enough not to be an hour's peak.
QUEUES = {
    "high": QueuePolicy(max_depth=10_000, oldest_seconds=10, backlog=1_000),
    "default": QueuePolicy(max_depth=50_000, oldest_seconds=120, backlog=5_000),
    "io": QueuePolicy(max_depth=50_000, oldest_seconds=120, backlog=5_000),
    "low": QueuePolicy(max_depth=200_000, oldest_seconds=3600, backlog=20_000),
}

DEFAULT_QUEUE = "default"


def task_queues(arguments: Mapping[str, Any]) -> list[Queue]:
    """With direct exchanges only: a topic exchange that lost its bindings accepts every publish and stores none."""
    return [
        Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=dict(arguments)) for name in QUEUES
    ]


# Exact names first, then narrow globs, then broad ones: Celery takes the first that matches.
TASK_ROUTES = {
    "tasks.charge_customer": {"queue": "io"},
    "tasks.refund_charge": {"queue": "io"},
    "tasks.sync_to_external_api": {"queue": "io"},
    "tasks.sync_external_data": {"queue": "io"},
    "tasks.call_external_api": {"queue": "io"},
    "tasks.send_*": {"queue": "io"},
    "tasks.critical_*": {"queue": "high"},
    "tasks.batch_*": {"queue": "low"},
}

# Queues of SQS that are read without Celery, and who handles a message's body: see apps/jobs/sqs_consumer.py.
SQS_HANDLERS = {"supplier-changes.fifo": "apps.catalog.changes.hear"}
