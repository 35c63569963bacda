"""Amazon's SQS by itself, without Celery: to talk with systems that are not ours.

Problem. The usual code sends every message with the group `default`, which makes a FIFO queue a single file, and
without an id of its own, so that a repeated send is a second message.

Guarantee. A FIFO queue's messages name the thing they are about: one thing's messages are handled in order, those of
different things side by side. A send that is repeated with its id within five minutes is one message. Bodies are JSON
and no larger than SQS takes. Every call has a time-out, and an outage is `QueueUnavailable`.

Not guaranteed. A standard queue delivers some messages twice and in any order, a FIFO queue those whose receiver was
too slow: whoever handles them must bear that. To send in a transaction, start `tasks.send_sqs_message` instead: its job
commits with it.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from django.conf import settings

# Bytes. What SQS took for fifteen years; it takes a megabyte since 2025, which is a file and belongs into S3.
MAX_BODY = 256 * 1024
# SQS hands out, extends and deletes at most this many at a time.
MAX_BATCH = 10
# What SQS says when it is busy rather than when we are wrong, beside any 5xx.
BUSY = {"RequestThrottled", "ThrottlingException", "Throttling", "KmsThrottled", "OverLimit"}


class QueueUnavailable(Exception):
    """SQS did not answer, or said that it is busy."""


class NoDeadLetterQueue(Exception):
    """A message that kills its consumer would come back for ever."""


class Unusable(Exception):
    """This message is wrong, and no later try will make it right. Handlers raise it, or a class of theirs below it."""


@dataclass(frozen=True)
class Message:
    """`receives` counts this delivery. `receipt` stands for this delivery alone; the id stays the same in each."""

    id: str
    receipt: str
    body: str
    group: str | None
    receives: int


@dataclass(frozen=True)
class Redrive:
    """Where SQS puts a message that was received `max_receives` times and is still there."""

    max_receives: int
    queue: "Queue"


class Queue:
    def __init__(self, name: str) -> None:
        """Raises botocore's error for a queue that does not exist."""
        self.name = name
        with _translated():
            self.url = _client().get_queue_url(QueueName=name)["QueueUrl"]

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(".fifo")

    def redrive(self) -> Redrive:
        with _translated():
            answer = _client().get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(answer.get("Attributes", {}).get("RedrivePolicy", "{}"))
        if not policy:
            raise NoDeadLetterQueue(f"The queue {self.name!r} has no redrive policy: give it a dead-letter queue.")
        return Redrive(int(policy["maxReceiveCount"]), Queue(policy["deadLetterTargetArn"].rpartition(":")[2]))

    def send(self, body: str, group: str | None = None, deduplication_id: str | None = None) -> str:
        """The message's id; SQS gives the first one's if it knows the deduplication id."""
        if self.is_fifo and not (group and deduplication_id):
            raise ValueError(f"{self.name!r} is a FIFO queue: say what the message is about, and give it an id.")
        if len(body.encode()) > MAX_BODY:
            raise ValueError(f"The body has {len(body.encode()):,} bytes; {MAX_BODY:,} are allowed.")
        fifo = {"MessageGroupId": group, "MessageDeduplicationId": deduplication_id} if self.is_fifo else {}
        with _translated():
            return str(_client().send_message(QueueUrl=self.url, MessageBody=body, **fifo)["MessageId"])

    def receive(self, at_most: int, wait: float, visibility: int) -> list[Message]:
        """Up to `at_most` messages, ours for `visibility` seconds; waits for the first up to `wait` (20 at most)."""
        with _translated():
            answer = _client().receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=at_most,
                WaitTimeSeconds=int(wait),
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=["All"],
            )
        return [_message(each) for each in answer.get("Messages", [])]

    def keep(self, messages: Sequence[Message], seconds: int) -> set[str]:
        """Have nobody else receive them for so many seconds from now; 0 gives them back. Returns the ids of those
        that are no longer ours."""
        lost: set[str] = set()
        for start in range(0, len(messages), MAX_BATCH):
            batch = messages[start : start + MAX_BATCH]
            entries = [{"Id": each.id, "ReceiptHandle": each.receipt, "VisibilityTimeout": seconds} for each in batch]
            with _translated():
                answer = _client().change_message_visibility_batch(QueueUrl=self.url, Entries=entries)
            lost |= {failed["Id"] for failed in answer.get("Failed", [])}
        return lost

    def delete(self, message: Message) -> None:
        """A message that is no longer ours to delete stays, and so does one that is gone already."""
        entries = [{"Id": message.id, "ReceiptHandle": message.receipt}]
        with _translated():
            answer = _client().delete_message_batch(QueueUrl=self.url, Entries=entries)
        for failed in answer.get("Failed", []):
            if not failed["SenderFault"]:
                raise QueueUnavailable(f"SQS could not delete a message ({failed['Code']}).")


def enqueue(queue: str, body: Any, *, group: str | None = None, deduplication_id: str | None = None) -> str:
    """Send one JSON message; returns its id. Raises QueueUnavailable, and ValueError or TypeError for a bad message.

    In a FIFO queue `group` names the thing that the message is about (`order-17`), and `deduplication_id` the wish: the
    same in each repetition, another for another wish.
    """
    return Queue(queue).send(json.dumps(body), group, deduplication_id)


def _message(received: Any) -> Message:
    attributes = received.get("Attributes", {})
    return Message(
        id=received["MessageId"],
        receipt=received["ReceiptHandle"],
        body=received["Body"],
        group=attributes.get("MessageGroupId"),
        receives=int(attributes.get("ApproximateReceiveCount", 1)),
    )


def _client() -> Any:
    return _client_for(
        settings.AWS_ENDPOINT_URL, settings.AWS_REGION, settings.AWS_ACCESS_KEY_ID, settings.AWS_SECRET_ACCESS_KEY
    )


@lru_cache(maxsize=4)
def _client_for(endpoint: str | None, region: str, key_id: str, secret: str) -> Any:
    """Made once a process and address; boto3's clients are thread-safe.

    Empty credentials leave boto3 to its own chain: profile, container or instance role.
    """
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        # SQS lets a receiver wait for 20 s at most, so 25 s without an answer is an outage.
        config=Config(connect_timeout=3, read_timeout=25, retries={"max_attempts": 2, "mode": "standard"}),
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        raise QueueUnavailable(f"SQS cannot be reached: {error}") from error
    except boto.ClientError as error:
        code = error.response["Error"]["Code"]
        if code in BUSY or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise QueueUnavailable(f"SQS is busy ({code}).") from error
        raise
