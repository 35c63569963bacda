"""Tasks whose jobs tell on the machinery: each leaves behind under which fencing token it ran."""

import ctypes
import time
from functools import cache

import redis
from celery import shared_task
from django.conf import settings
from django.db import connection

from apps.jobs.task import JobTask

# A job may take its worker down a few times more than it may be retried. A long run restarts the database every ten
# seconds, so one that sleeps for some seconds in its transaction meets that often, and for no fault of its own.
OFTEN = 20


@shared_task(name="chaos.effect", bind=True, atomic=True, max_retries=OFTEN)
def effect(self: JobTask, seconds: float = 0.0) -> None:
    """Safe to run twice: its row is written in the transaction that ends the job, so it is there once."""
    time.sleep(seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO chaos_effect (job_id, token) VALUES (%s, %s)", [self.request.id, self.request.token]
        )


@shared_task(name="chaos.trace", bind=True, max_retries=OFTEN)
def trace(self: JobTask, seconds: float = 0.0) -> None:
    """Safe to run twice: each run leaves a row, committed by itself, and one is enough to show that it has run."""
    time.sleep(seconds)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO chaos_trace (job_id) VALUES (%s)", [self.request.id])


@shared_task(name="chaos.token", bind=True, ignore_result=False, max_retries=OFTEN)
def token(self: JobTask, seconds: float = 0.0) -> int:
    """Return the token under which it ran: the job's last one, or an older attempt has overwritten a newer one.

    Safe to run twice: it only waits.
    """
    time.sleep(seconds)
    return int(self.request.token)


@shared_task(name="chaos.segfault")
def segfault() -> None:
    """Read address 0: the process dies, each time. Safe to run twice: it has no effect but that."""
    ctypes.string_at(0)


@shared_task(name="chaos.tick")
def tick() -> None:
    """What beat starts. Safe to run twice: it does nothing."""


@shared_task(name="chaos.canary")
def canary() -> None:
    """Shows that its worker works. Safe to run twice: it does nothing."""


@shared_task(name="chaos.mark", bind=True, durable=False)
def mark(self: JobTask) -> None:
    """Note that it ran, where the broker is. Safe to run twice: a set holds it once."""
    _redis().sadd("chaos:ran", self.request.id)


@cache
def _redis() -> "redis.Redis":
    return redis.Redis.from_url(settings.REDIS_URL)
