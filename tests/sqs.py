"""Queues with SQS' real interface, for tests: moto's server, asked by boto3 over HTTP."""

import json
from typing import Any

import pytest
import requests
from pytest_django import Settings

from apps.jobs.sqs import Queue, _client
from tests.s3 import s3_server as s3_server

ARN = "arn:aws:sqs:eu-west-1:123456789012:"


@pytest.fixture
def sqs(s3_server: str, settings: Settings) -> str:
    """No queues."""
    requests.post(f"{s3_server}/moto-api/reset", timeout=10).raise_for_status()
    settings.AWS_ENDPOINT_URL = s3_server
    return s3_server


def make_queue(name: str, max_receives: int | None = 3) -> Queue:
    """With a dead-letter queue of its own, or None for none."""
    policy: dict[str, Any] = {}
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    if max_receives is not None:
        dead = f"dead-{name}"
        _client().create_queue(QueueName=dead, Attributes=fifo)
        policy = {"deadLetterTargetArn": ARN + dead, "maxReceiveCount": max_receives}
    attributes = {**fifo, **({"RedrivePolicy": json.dumps(policy)} if policy else {})}
    _client().create_queue(QueueName=name, Attributes=attributes)
    return Queue(name)


def waiting(queue: Queue) -> int:
    """Visible and invisible messages."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = _client().get_queue_attributes(QueueUrl=queue.url, AttributeNames=names)
    return sum(int(answer["Attributes"][name]) for name in names)
