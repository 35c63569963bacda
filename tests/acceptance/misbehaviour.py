"""Tasks that end badly, in every way there is, each of them once in the ledger and once in the broker only.

They are no part of the catalogue: a worker is told to load them (`--include`).
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded
from django.db import connection, transaction

from apps.jobs.models import Job
from apps.jobs.task import JobTask

Body = Callable[[], Any]


class Unreachable(Exception):
    """A third party that does not answer."""


def exhaust_its_retries() -> None:
    raise Unreachable("nobody there")


def fail_for_good() -> None:
    raise ValueError("no such order")


def run_into_the_soft_limit() -> None:
    time.sleep(60)


def run_into_the_hard_limit() -> None:
    while True:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            continue


def kill_its_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def eat_all_memory() -> None:
    bytearray(1 << 60)


def return_what_is_no_json() -> Any:
    return object()


def reject_its_message() -> None:
    raise Reject("I do not want it", requeue=False)


RETRIES: dict[str, Any] = {"autoretry_for": (Unreachable,), "max_retries": 2, "default_retry_delay": 0}
# How it ends → the body, the task's options, and the kind of dead letter that must be found.
ENDS: dict[str, tuple[Body, dict[str, Any], str]] = {
    "retries exhausted": (exhaust_its_retries, RETRIES, "exhausted"),
    "permanent error": (fail_for_good, {}, "permanent"),
    "soft time limit": (run_into_the_soft_limit, {"soft_time_limit": 3, "time_limit": 60}, "time_limit"),
    "hard time limit": (run_into_the_hard_limit, {"soft_time_limit": 2, "time_limit": 3}, "time_limit"),
    "child killed": (kill_its_own_process, {"max_retries": 0}, "crashed"),
    "out of memory": (eat_all_memory, {}, "out_of_memory"),
    "unserialisable result": (return_what_is_no_json, {"ignore_result": False}, "bad_result"),
    "rejected": (reject_its_message, {}, "rejected"),
}


def wait_for_gate(gate: str) -> None:
    """Say that we have come so far, and go on when the file is there."""
    if gate:
        Path(f"{gate}.{os.getpid()}").touch()
        while not Path(gate).exists():
            time.sleep(0.02)


def make_task(how: str, durable: bool) -> JobTask:
    body, options, _ = ENDS[how]

    def run(gate: str = "") -> Any:
        wait_for_gate(gate)
        return body()

    name = f"acceptance.{body.__name__}{'' if durable else '_broker_only'}"
    return shared_task(name=name, durable=durable, **options)(run)  # type: ignore[no-any-return]


DURABLE = {how: make_task(how, durable=True) for how in ENDS}
BROKER_ONLY = {how: make_task(how, durable=False) for how in ENDS}


@shared_task(name="acceptance.note", bind=True)
def note(self: JobTask, book: str, seconds: float = 0.0) -> None:
    take_notes(self.request.id, book, seconds)


@shared_task(name="acceptance.note_broker_only", durable=False, bind=True)
def note_broker_only(self: JobTask, book: str, seconds: float = 0.0) -> None:
    take_notes(self.request.id, book, seconds)


@shared_task(name="acceptance.note_steps", bind=True)
def note_steps(self: JobTask, book: str, steps: int) -> None:
    for step in self.track(range(steps)):
        write(book, "step", str(step))
        time.sleep(0.1)


@shared_task(name="acceptance.wait_for_the_database")
def wait_for_the_database(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])


@shared_task(name="acceptance.hold_its_row", bind=True, soft_time_limit=1, time_limit=2)
def hold_its_row(self: JobTask) -> None:
    with transaction.atomic():
        Job.objects.select_for_update().get(pk=self.request.id)
        run_into_the_hard_limit()


def take_notes(job_id: str, book: str, seconds: float) -> None:
    """A line at the start and one at the end."""
    write(book, "start", job_id)
    time.sleep(seconds)
    write(book, "end", job_id)


def write(book: str, what: str, who: str) -> None:
    """One line, which a killed process has written in full or not at all."""
    with Path(book).open("ab", buffering=0) as file:
        file.write(f"{what} {who}\n".encode())
