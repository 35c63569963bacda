"""The figures above the patterns: is the shop busy, is anyone working, has anything died."""

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from apps.jobs.models import DeadLetter, Worker
from apps.jobs.queues import statuses

# Workers renew their heartbeat every ten seconds; three missed ones mean that nobody is there.
STALE = timedelta(seconds=30)


@dataclass(frozen=True)
class Pulse:
    waiting: int
    running: int
    letters: int
    workers: int


def pulse() -> Pulse:
    """Cheap however long the history is: only live rows and open letters are counted."""
    queues = statuses()
    return Pulse(
        waiting=sum(queue.waiting for queue in queues),
        running=sum(queue.running for queue in queues),
        letters=DeadLetter.objects.filter(state=DeadLetter.State.OPEN).count(),
        workers=Worker.objects.filter(stopped_at=None, heartbeat_at__gt=timezone.now() - STALE).count(),
    )
