"""Ten messages in one call to Amazon: what `producer.batch()` publishes to SQS.

Problem. kombu sends each message by a call of its own. A relay with hundreds of jobs of one queue is busy with them for
seconds, and an urgent job of another queue waits for it to come back.

Guarantee. When `flush` returns, Amazon has them all; if it refused one, `flush` raises. The others may have been sent,
and are sent again: the claim drops the second message. `publish` raises `MessageTooLarge` for what Amazon would refuse
however often it is sent; the others of the batch are not concerned.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from apps.jobs.brokers.refusal import check_size

Entry = dict[str, Any]

# Amazon's limits to one call; a little is left for names and attributes.
MOST = 10
MOST_BYTES = 240 * 1024


class Outbox:
    """Stands in for Amazon's client while kombu makes a message, and keeps what it would have sent."""

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self.client = channel.sqs()
        self.max_size = max_size
        self.waiting: defaultdict[str, list[Entry]] = defaultdict(list)

    def publish(self, message: Any, **options: Any) -> None:
        self.channel.outbox = self
        try:
            self.channel.basic_publish(message, **options)
        finally:
            self.channel.outbox = None
        if sum(map(len, self.waiting.values())) >= self.max_size:
            self.flush()

    def send_message(self, *, QueueUrl: str, **entry: Any) -> None:  # noqa: N803 - Amazon's name for it
        size = len(entry["MessageBody"])  # base64: a byte each
        if size > MOST_BYTES:
            check_size(size, self._largest(QueueUrl))
        self.waiting[QueueUrl].append(entry)

    def _largest(self, url: str) -> int:
        """Each queue has its own: a megabyte, a quarter of it before 2025, or what somebody has set."""
        name = "MaximumMessageSize"
        return int(self.client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])

    def __getattr__(self, name: str) -> Any:
        """Everything else, as making a queue, is done at once."""
        return getattr(self.client, name)

    def flush(self) -> None:
        waiting = dict(self.waiting)
        self.discard()
        try:
            for url, entries in waiting.items():
                for few in calls(entries):
                    self._send(url, few)
        except ClientError:
            self.channel.forget_queues()  # one of them may have been deleted
            raise

    def _send(self, url: str, entries: list[Entry]) -> None:
        numbered = [{"Id": str(number), **entry} for number, entry in enumerate(entries)]
        failed = self.client.send_message_batch(QueueUrl=url, Entries=numbered).get("Failed")
        if failed:
            raise ClientError({"Error": failed[0]}, "SendMessageBatch")

    def discard(self) -> None:
        self.waiting.clear()

    def close(self) -> None:
        self.discard()


def calls(entries: list[Entry]) -> Iterator[list[Entry]]:
    """In their order, as many together as one call may carry."""
    few: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(entry["MessageBody"])
        if few and (len(few) == MOST or size + length > MOST_BYTES):
            yield few
            few, size = [], 0
        few.append(entry)
        size += length
    if few:
        yield few
