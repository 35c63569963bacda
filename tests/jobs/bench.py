"""A relay and a worker in this process, so that a test can look between any two of their steps."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID

from celery import current_app
from celery.app.trace import trace_task
from celery.result import AsyncResult
from django.conf import settings
from django.db import connection
from django.utils import timezone
from kombu.utils.imports import symbol_by_name
from kombu.utils.json import dumps, loads

from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from apps.jobs.relay import as_message

LONG_AGO = timezone.now() - timedelta(days=1)


def task_request_class(task: Any) -> Any:
    return symbol_by_name(task.Request)


@dataclass(frozen=True)
class Message:
    """A task message as it lies in the broker: everything has been through JSON."""

    headers: dict[str, Any]
    body: str
    queue: str


class Bench:
    """Does what the relay and a pool child do, with Celery's own tracer, one step at a time."""

    def send(self) -> list[Message]:
        """queued → sent, and the messages that a relay would publish."""
        return [self._message(due) for due in ledger.take_due(settings.JOBS_QUEUES, 1_000)]

    def _message(self, due: ledger.Due) -> Message:
        message = as_message(current_app, due)
        return Message(loads(dumps(message.headers)), dumps(message.body), due.queue)

    def deliver(self, message: Message) -> Any:
        """Hand the message to a pool child. Returns what its tracer says."""
        args, kwargs, embed = loads(message.body)
        task_id = message.headers["id"]
        request = {**message.headers, "args": args, "kwargs": kwargs, "is_eager": False, "hostname": "bench", **embed}
        request["delivery_info"] = {"exchange": "", "routing_key": message.queue, "priority": None}
        task = current_app.tasks[message.headers["task"]]
        return trace_task(task, task_id, args, kwargs, request, app=current_app)

    def request(self, message: Message) -> Any:
        """What the main process makes of the message before it hands it to the pool."""
        task = current_app.tasks[message.headers["task"]]
        received = Mock(headers=message.headers, body=message.body, payload=loads(message.body), properties={})
        received.delivery_info = {"exchange": "", "routing_key": message.queue}
        return task_request_class(task)(
            received, app=current_app, task=task, eventer=Mock(enabled=True), connection_errors=(OSError,)
        )

    def run_due(self) -> int:
        """One delivery of every job that is due now."""
        messages = self.send()
        for message in messages:
            self.deliver(message)
        return len(messages)

    def run_all(self) -> None:
        """Until nothing is left, without waiting for any countdown."""
        while ledger.hurry(Job.objects.filter(state=Job.State.QUEUED).values_list("pk", flat=True)):
            self.run_due()

    def job(self, result: AsyncResult) -> Job:
        return Job.objects.get(pk=result.id)

    def letter(self, result: AsyncResult) -> DeadLetter:
        return DeadLetter.objects.get(job_id=result.id)


def behind_stale_statistics(fill: Callable[[], object]) -> None:
    """Fill the table of jobs so that PostgreSQL takes it for empty, as after a clean-up that was not vacuumed yet."""
    fill()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM jobs_job")
        cursor.execute("ANALYZE jobs_job")
    fill()


def insert_jobs(number: int, **columns: str) -> None:
    """By expressions of SQL, in which `i` counts from 1: the quickest way to thousands of rows."""
    row = {"id": "gen_random_uuid()", "task": "'t'", "args": "'[]'", "kwargs": "'{}'", "options": "'{}'"}
    row |= {"queue": "'default'", **columns}
    names, values = ", ".join(row), ", ".join(row.values())
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO jobs_job ({names}) SELECT {values} FROM generate_series(1, %s) AS i", [number])


def record(**options: Any) -> UUID:
    job = NewJob(**{"task": "tasks.lab_nothing", "args": [], "kwargs": {}, "queue": "default", **options})
    return ledger.record([job])[0].id


def row(job_id: UUID) -> Job:
    return Job.objects.get(pk=job_id)


def claim(job_id: UUID, retries: int = 0) -> int:
    """The token under which the job is ours."""
    return ledger.claim({job_id: retries}, None)[job_id]
