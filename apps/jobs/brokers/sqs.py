"""Amazon SQS: standard and FIFO queues, and messages that kombu cannot read.

Problem. kombu takes the endpoint from the URL's host alone, puts all messages of a FIFO queue into one group, in which
each waits for the one before, and makes an empty call of a message that it cannot read.

Guarantee. In a FIFO queue each job is a group of its own, unless its `MessageGroupId` header names one. What cannot be
read reaches the consumer as it is, and becomes a dead letter there.

Not guaranteed. Order within a group holds for a worker that runs one job at a time: SQS hands out up to ten messages of
a group together. SQS counts its messages approximately, and about a minute late.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from json import loads
from typing import Any

from botocore.exceptions import ClientError
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.transport import SQS

from apps.jobs.brokers.sqs_outbox import Outbox
from apps.jobs.envelope import count_deliveries, readable

logger = logging.getLogger(__name__)

# A tag of the queue: whoever deletes the queue deletes the mark.
MARK = "nightshift-database"
GONE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
FIFO = ".fifo"
# What Amazon takes for the name of a group. It would refuse another, and with it the batch.
GROUP = re.compile(r"[!-~]{1,128}")


class PatientConnection(AsyncSQSConnection):
    """An answer that is no list of messages is none at all: the next question, a moment later, may fare better.

    kombu stumbles over a server's error and exits over a refusal (a queue that somebody has deleted, a token that has
    just expired).
    """

    def _on_list_ready(self, parent: Any, markers: Any, operation: str, response: Any) -> Any:
        if response.status == self.STATUS_CODE_OK:
            return super()._on_list_ready(parent, markers, operation, response)  # type: ignore[no-untyped-call]
        logger.warning("SQS does not answer: HTTP %s %s", response.status, response.reason)
        return {}


class Channel(SQS.Channel):
    _asynsqs: Any = None
    outbox: Outbox | None = None

    @property
    def endpoint_url(self) -> Any:
        return self.transport_options.get("endpoint_url") or SQS.Channel.endpoint_url.__get__(self)

    @property
    def suffix(self) -> str:
        return FIFO if self.transport_options.get("fifo") else ""

    def canonical_queue_name(self, queue_name: str) -> str:
        name = super().canonical_queue_name(queue_name.removesuffix(FIFO))  # type: ignore[no-untyped-call]
        return f"{name}{self.suffix}"

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        properties, headers = message["properties"], message.get("headers") or {}
        if self.suffix:
            properties["MessageGroupId"] = group_of(headers)
        try:
            super()._put(queue + self.suffix, message, **kwargs)  # type: ignore[no-untyped-call]
        except ClientError as exc:
            if exc.response["Error"]["Code"] not in GONE:
                raise
            self.forget_queues()  # somebody has deleted the queue: make it anew
            super()._put(queue + self.suffix, message, **kwargs)  # type: ignore[no-untyped-call]

    def forget_queues(self) -> None:
        self._queue_cache.clear()

    def create_publish_batch(self, max_size: int) -> Outbox:
        """kombu asks for it in `producer.batch()`."""
        return Outbox(self, max_size)

    def sqs(self, queue: str | None = None) -> Any:
        return self.outbox or super().sqs(queue)  # type: ignore[no-untyped-call]

    def asynsqs(self, queue: str | None = None) -> Any:
        if self._asynsqs is None:
            client = self.sqs(queue)
            self._asynsqs = PatientConnection(client, region=self.region)  # type: ignore[no-untyped-call]
        return self._asynsqs

    def _message_to_python(self, message: dict[str, Any], queue_name: str, q_url: str) -> Any:
        body: bytes = self._decode_python_message_body(message["Body"])  # type: ignore[no-untyped-call]
        text = body.decode("utf-8", "replace")
        envelope = loads(readable(text, queue_name))
        count_deliveries(envelope, before=int(message["Attributes"]["ApproximateReceiveCount"]) - 1)
        return self._envelope_payload(envelope, text, message, q_url)  # type: ignore[no-untyped-call]

    def _restore(self, message: Any, *_: Any) -> None:
        """kombu sends it a second time, and after its visibility time-out the first comes back all the same."""
        delivery = message.delivery_info
        receipt = {"QueueUrl": delivery["sqs_queue"], "ReceiptHandle": delivery["sqs_message"]["ReceiptHandle"]}
        with suppress(ClientError):  # it is no longer ours to give back
            self.sqs().change_message_visibility(**receipt, VisibilityTimeout=0)


def group_of(headers: dict[str, Any]) -> str:
    """As the header names it. Of a name that Amazon would not take, its hash: the same name is still the same group."""
    name = str(headers.get("MessageGroupId") or headers.get("id") or "default")
    return name if GROUP.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()


class Transport(SQS.Transport):
    Channel = Channel

    # A refused call (a queue deleted, a token expired) is a reason to connect again, not to exit.
    connection_errors: Any = (*SQS.Transport.connection_errors, ClientError)
    channel_errors: Any = (*SQS.Transport.channel_errors, ClientError)


class SQSMemory:
    # Amazon's counts are right after about a minute.
    settled = timedelta(minutes=2)

    def __init__(self, channel: Any, queues: Iterable[str]) -> None:
        self.channel = channel
        self.queues = list(queues)

    def remembers(self, database: str) -> bool:
        return all(self._tags(queue).get(MARK) == _as_tag(database) for queue in self.queues)

    def remember(self, database: str) -> None:
        for queue in self.queues:
            self.channel.sqs().tag_queue(QueueUrl=self.channel._new_queue(queue), Tags={MARK: _as_tag(database)})

    def _tags(self, queue: str) -> dict[str, str]:
        return dict(self.channel.sqs().list_queue_tags(QueueUrl=self.channel._new_queue(queue)).get("Tags", {}))

    def empty(self, queues: Iterable[str]) -> list[str]:
        return [name for name in queues if not any(self._counts(name))]

    def _counts(self, queue: str) -> list[int]:
        url = self.channel._new_queue(queue)
        answer = self.channel.sqs().get_queue_attributes(QueueUrl=url, AttributeNames=list(COUNTS))
        return [int(answer["Attributes"][name]) for name in COUNTS]

    def wipe(self, queues: Iterable[str], database: str) -> int:
        for queue in queues:
            self.channel.sqs().untag_queue(QueueUrl=self.channel._new_queue(queue), TagKeys=[MARK])
        return sum(self.channel.queue_purge(queue) for queue in queues)

    def given_up(self) -> Iterator[Any]:
        return iter(())


def _as_tag(database: str) -> str:
    """Amazon allows letters, digits, spaces and a few signs."""
    return database.replace("+", " ")
