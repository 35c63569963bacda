"""Batches for SQS: as few calls as Amazon allows, and nothing refused without a word."""

from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from apps.jobs.brokers.sqs_outbox import MOST_BYTES, Outbox, calls


class Channel:
    """Makes a message as kombu does, with whatever client it is given."""

    def __init__(self, failed: list[dict[str, str]] | None = None) -> None:
        self.client = Mock()
        self.client.send_message_batch.return_value = {"Failed": failed or []}
        self.outbox: Outbox | None = None
        self.forget_queues = Mock()

    def sqs(self) -> Any:
        return self.outbox or self.client

    def basic_publish(self, message: str, routing_key: str) -> None:
        self.sqs().send_message(QueueUrl=routing_key, MessageBody=message)

    def sent(self) -> list[tuple[str, list[str]]]:
        asked = [call.kwargs for call in self.client.send_message_batch.call_args_list]
        return [(call["QueueUrl"], [entry["MessageBody"] for entry in call["Entries"]]) for call in asked]


def test_ten_messages_of_a_queue_leave_in_one_call_and_in_their_order() -> None:
    channel = Channel()
    outbox = Outbox(channel, 500)
    for number in range(12):
        outbox.publish(str(number), routing_key="low")
    outbox.publish("urgent", routing_key="high")
    assert channel.sent() == []
    outbox.flush()
    assert channel.sent() == [("low", [*"0123456789"]), ("low", ["10", "11"]), ("high", ["urgent"])]
    assert channel.sqs() is channel.client


def test_a_full_batch_leaves_at_once() -> None:
    channel = Channel()
    outbox = Outbox(channel, 2)
    outbox.publish("a", routing_key="low")
    outbox.publish("b", routing_key="high")
    assert channel.sent() == [("low", ["a"]), ("high", ["b"])]


def test_what_was_given_up_does_not_leave() -> None:
    channel = Channel()
    outbox = Outbox(channel, 500)
    outbox.publish("a", routing_key="low")
    outbox.discard()
    outbox.flush()
    assert channel.sent() == []


def test_a_call_is_never_larger_than_amazon_takes() -> None:
    half, large = {"MessageBody": "x" * (MOST_BYTES // 2)}, {"MessageBody": "x" * (MOST_BYTES + 1)}
    assert list(calls([half, half, half, large, half])) == [[half, half], [half], [large], [half]]


def test_one_that_amazon_refuses_makes_all_of_them_fail() -> None:
    channel = Channel(failed=[{"Id": "0", "Code": "InternalError", "Message": "try again"}])
    outbox = Outbox(channel, 500)
    outbox.publish("a", routing_key="low")
    with pytest.raises(ClientError, match="InternalError"):
        outbox.flush()
    channel.forget_queues.assert_called_once()
