"""Messages to systems that are not ours."""

from typing import Any

from celery import shared_task

from apps.jobs.sqs import Queue
from tasks.policies import MESSAGE_QUEUE


@shared_task(bind=True, **MESSAGE_QUEUE)
def send_sqs_message(self: Any, queue: str, body: str, group: str | None = None) -> None:
    """Put a text into an SQS queue, in the transaction that started this job, and again if its first reader failed.

    Safe to run twice: a FIFO queue knows the job's id for five minutes; who reads a standard one bears duplicates.
    """
    Queue(queue).send(body, group, deduplication_id=self.request.id)
