"""The levels: how everything stands at this moment. Only live rows, open letters and the last minutes are read."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Max
from django_celery_beat.models import PeriodicTask

from apps.jobs.clock import database_now
from apps.jobs.dashboard.tallies import Tally, tallies_by
from apps.jobs.health.pulling import live_workers
from apps.jobs.health.reasons import Reason
from apps.jobs.health.working import troubles
from apps.jobs.metrics.lag import relay_lag
from apps.jobs.models import DeadLetter, QueuePause, Worker
from apps.jobs.queues import QueueStatus, statuses

# Rates of one minute jump about; those of an hour hide what happens now.
RATE_OVER = timedelta(minutes=5)
# Open letters are counted up to here: past it the number tells nobody anything, and costs more each time.
COUNTED_LETTERS = 10_000

# A relay polls once a second, and sends thousands of jobs in one.
LATE_RELAY = 10.0


@dataclass(frozen=True)
class QueueLevel:
    """busy and size: of the workers that take this queue's jobs, among others perhaps."""

    status: QueueStatus
    tally: Tally
    paused: bool
    limit: int | None
    busy: int
    size: int

    @property
    def is_late(self) -> bool:
        return self.limit is not None and (self.status.oldest or 0) > self.limit

    @property
    def per_minute(self) -> float:
        return self.tally.succeeded * 60 / RATE_OVER.total_seconds()

    @property
    def is_served(self) -> bool:
        return self.size > 0


@dataclass(frozen=True)
class Levels:
    """Times in seconds; None where there is nothing to measure."""

    queues: list[QueueLevel]
    workers: int
    busy: int
    size: int
    letters: int
    relay_lag: float
    beat_age: float | None
    troubles: list[Reason]

    @property
    def waiting(self) -> int:
        return sum(queue.status.waiting for queue in self.queues)

    @property
    def running(self) -> int:
        return sum(queue.status.running for queue in self.queues)

    @property
    def oldest(self) -> float | None:
        return max((queue.status.oldest for queue in self.queues if queue.status.oldest is not None), default=None)

    @property
    def per_minute(self) -> float:
        return sum(queue.per_minute for queue in self.queues)

    @property
    def failure_rate(self) -> float | None:
        failed = sum(queue.tally.failed for queue in self.queues)
        ended = failed + sum(queue.tally.succeeded for queue in self.queues)
        return failed / ended if ended else None

    @property
    def relay_is_late(self) -> bool:
        return self.relay_lag > LATE_RELAY

    @property
    def letters_are_many(self) -> bool:
        return self.letters >= COUNTED_LETTERS


def levels() -> Levels:
    now = database_now()
    workers = live_workers()
    paused = set(QueuePause.objects.exclude(until__lte=now).values_list("queue", flat=True))
    return Levels(
        queues=_queues(now, workers, paused),
        workers=len(workers),
        busy=sum(worker.busy for worker in workers),
        size=sum(worker.size for worker in workers),
        letters=DeadLetter.objects.filter(state=DeadLetter.State.OPEN)[:COUNTED_LETTERS].count(),
        relay_lag=relay_lag(),
        beat_age=_beat_age(now),
        troubles=troubles(now),
    )


def _queues(now: datetime, workers: list[Worker], paused: set[str]) -> list[QueueLevel]:
    tallies = tallies_by("queue", now - RATE_OVER)
    return [_queue(status, tallies, paused, workers) for status in statuses()]


def _queue(status: QueueStatus, tallies: dict[str, Tally], paused: set[str], workers: list[Worker]) -> QueueLevel:
    serving = [worker for worker in workers if status.name in worker.queues]
    policy = settings.JOBS_QUEUES.get(status.name)
    return QueueLevel(
        status=status,
        tally=tallies.get(status.name, Tally()),
        paused=status.name in paused,
        limit=policy.oldest_seconds if policy else None,
        busy=sum(worker.busy for worker in serving),
        size=sum(worker.size for worker in serving),
    )


def _beat_age(now: datetime) -> float | None:
    last: datetime | None = PeriodicTask.objects.aggregate(last=Max("last_run_at"))["last"]
    return None if last is None else max(0.0, (now - last).total_seconds())
