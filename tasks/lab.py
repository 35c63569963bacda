"""Tasks that misbehave on request: for the demo, the tour, the chaos run and the tests."""

import os
import signal
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from apps.jobs import ledger
from apps.jobs.limits import Rate
from apps.jobs.models import Job
from apps.jobs.snooze import Snooze
from apps.jobs.task import JobTask


class LabError(Exception):
    """The lab was asked to fail."""


@shared_task
def lab_nothing() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(durable=False)
def lab_nothing_broker_only() -> None:
    """Safe to run twice: it does nothing."""


@shared_task(ignore_result=False)
def lab_add(x: int, y: int) -> int:
    """Safe to run twice: it only computes."""
    return x + y


@shared_task(bind=True)
def lab_sleep(self: JobTask, seconds: float, steps: int = 10) -> None:
    """Safe to run twice: it only waits. It can be cancelled between its steps."""
    for _ in self.track(range(steps)):
        time.sleep(seconds / steps)


@shared_task
def lab_fail(message: str = "The lab was asked to fail.") -> None:
    """Safe to run twice: it always fails, for good."""
    raise LabError(message)


@shared_task(bind=True, autoretry_for=(LabError,), retry_backoff=1, retry_jitter=False, max_retries=3)
def lab_flaky(self: JobTask, failures: int) -> None:
    """Fails so many times, then succeeds. Safe to run twice: it has no effect."""
    if self.request.retries < failures:
        raise LabError(f"Attempt {self.request.retries + 1} of {failures} that fail.")


@shared_task(max_retries=1)
def lab_crash() -> None:
    """Takes its own process down, as a segmentation fault or the out-of-memory killer would. Safe to run twice: it
    has no effect but that."""
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(sensitive=("token",))
def lab_secret(token: str, fail: bool = True) -> None:
    """Fails with its secret in the message. Safe to run twice: it has no effect."""
    if fail:
        raise LabError(f"The token {token} was refused.")


@shared_task(ignore_result=False)
def lab_bad_result() -> Any:
    """Returns what is not JSON. Safe to run twice: it has no effect."""
    return object()


@shared_task(ignore_result=False)
def lab_total(numbers: list[int]) -> int:
    """Safe to run twice: it only computes."""
    return sum(numbers)


@shared_task(durable=False)
def lab_fail_broker_only() -> None:
    """Safe to run twice: it always fails, for good."""
    raise LabError("The lab was asked to fail.")


@shared_task
def lab_eat_memory() -> None:
    """Asks for more memory than there is. Safe to run twice: it has no effect."""
    raise MemoryError


@shared_task(time_limit=2, soft_time_limit=1)
def lab_run_into_soft_limit() -> None:
    """Safe to run twice: it only waits."""
    time.sleep(30)


@shared_task(soft_time_limit=1, time_limit=2)
def lab_run_into_hard_limit() -> None:
    """Safe to run twice: it only waits."""
    _ignore_the_soft_limit()


@shared_task(durable=False, soft_time_limit=1, time_limit=2)
def lab_run_into_hard_limit_broker_only() -> None:
    """Safe to run twice: it only waits."""
    _ignore_the_soft_limit()


def _ignore_the_soft_limit() -> None:
    with suppress(SoftTimeLimitExceeded):
        time.sleep(30)
    time.sleep(30)


@shared_task
def lab_reject() -> None:
    """Rejects its own message. Safe to run twice: it has no effect."""
    raise Reject("The lab was asked to reject.", requeue=False)


@shared_task
def lab_snooze(until: float) -> None:
    """Comes back later until that time (Unix seconds). Safe to run twice: it has no effect."""
    if time.time() < until:
        raise Snooze(until - time.time(), "not yet")


@shared_task(unique=("key",))
def lab_unique(key: str, seconds: float = 0) -> None:  # noqa: ARG001 - it is the key that makes the job unique
    """Safe to run twice: it only waits."""
    time.sleep(seconds)


@shared_task(bind=True)
def lab_crash_once(self: JobTask) -> None:
    """Takes its own process down in its first attempt. Safe to run twice: it has no effect but that."""
    if _never_crashed(self):
        lab_crash.run()


@shared_task(bind=True, atomic=True)
def lab_atomic(self: JobTask, crash: bool = False) -> None:
    """Starts one other job; with `crash` it dies right after that, the first time. Safe to run twice: what it started
    is committed with its own end, or not at all."""
    lab_nothing.delay()
    if crash and _never_crashed(self):
        lab_crash.run()


# Five a second, whatever the number of workers.
LAB_RATE = Rate("lab", "5/second")


@shared_task
def lab_limited() -> None:
    """Takes a place under the lab's limit. Safe to run twice: it has no effect."""
    LAB_RATE.acquire()


@shared_task
def lab_cancel(job_id: str) -> None:
    """Asks for the end of another job. Safe to run twice: the second time changes nothing."""
    ledger.cancel(UUID(job_id))


def _never_crashed(task: JobTask) -> bool:
    return Job.objects.get(pk=task.request.id).crashes == 0
