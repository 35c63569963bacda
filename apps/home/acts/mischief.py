"""What goes wrong in real life, done on purpose. Behind buttons that work with the sandbox only."""

from typing import Any
from uuid import UUID, uuid4

from celery import current_app
from django.contrib.auth.models import User
from django.utils import timezone

from apps.jobs import broker
from apps.jobs.ledger import Due
from apps.jobs.models import Job
from apps.jobs.relay import as_message


def deliver_again(job_id: UUID, times: int) -> None:
    """Publish a job's message so many more times, as a broker does after a time-out or a partition."""
    job = Job.objects.get(pk=job_id)
    copies = {name: getattr(job, name) for name in Due.__dataclass_fields__ if name != "due"}
    copies["due"] = job.run_at.timestamp()
    with current_app.producer_pool.acquire(block=True) as producer:
        for _ in range(times):
            message = as_message(current_app, Due(**copies))
            queue = current_app.amqp.queues[job.queue]
            current_app.amqp.send_task_message(producer, job.task, message, queue=queue, retry=False)


def wipe_broker() -> int:
    """Delete everything that the broker holds. Returns how many things that were: keys, or messages."""
    return broker.wipe(current_app)


def record_without_telling(task: str, kwargs: dict[str, Any], queue: str, owner: User) -> UUID:
    """A job like any other, but for the notification: it was lost."""
    return Job.objects.create(task=task, kwargs=kwargs, queue=queue, owner=owner, run_at=timezone.now()).pk


def call_unknown_task() -> UUID:
    """A message for a task that no worker knows, from a producer that does not know the ledger."""
    name = uuid4()
    current_app.send_task("tasks.lab_does_not_exist", args=[str(name)], task_id=str(name), queue="default")
    return name


def send_garbage() -> list[UUID]:
    """Messages that are no task calls, each of another kind, and each with a name in its body."""
    names = [uuid4() for _ in range(4)]
    not_json, not_a_call, not_allowed, no_headers = map(str, names)
    headers = {"task": "tasks.lab_sleep", "id": str(uuid4())}
    _publish(f'["{not_json}", ', headers, "application/json")
    _publish(f'"{not_a_call}"', headers, "application/json")
    _publish(f"cposix\nsystem\n(S'echo {not_allowed}'\ntR.", headers, "application/x-python-serialize")
    _publish(f'["{no_headers}"]', {}, "application/json")
    return names


def _publish(body: str, headers: dict[str, str], content_type: str) -> None:
    with current_app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            body,
            routing_key="default",
            exchange=current_app.amqp.queues["default"].exchange,
            headers=headers,
            content_type=content_type,
            content_encoding="utf-8",
            retry=False,
        )
