"""The figures above the patterns: is the shop busy, is anyone working, has anything died."""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count
from django.utils import timezone

from apps.jobs.models import DeadLetter, Job, Worker

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
    live = dict(Job.objects.filter(state__in=Job.LIVE).values_list("state").annotate(Count("pk")))
    return Pulse(
        waiting=live.get(Job.State.QUEUED, 0) + live.get(Job.State.SENT, 0),
        running=live.get(Job.State.RUNNING, 0),
        letters=DeadLetter.objects.filter(state=DeadLetter.State.OPEN).count(),
        workers=Worker.objects.filter(stopped_at=None, heartbeat_at__gt=timezone.now() - STALE).count(),
    )
