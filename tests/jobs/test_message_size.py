"""A job whose message the broker does not take dies by itself, and stops nobody else."""

from collections.abc import Iterator
from unittest.mock import Mock
from uuid import UUID

import pytest
import redis
from amqp import Message
from celery import current_app
from kombu import Connection
from kombu.pools import producers
from kombu.transport import pyamqp

from apps.jobs.brokers import rabbitmq
from apps.jobs.brokers.refusal import MessageRefused, MessageTooLarge
from apps.jobs.models import DeadLetter, Job
from apps.jobs.relay import Relay
from tasks.lab import lab_add
from tests.sqs import make_queue


@pytest.fixture
def relay(transactional_db: None, valkey: redis.Redis, sqs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """In front of a stand-in for Amazon."""
    relay = Relay(current_app)
    options = {"region": "eu-west-1", "endpoint_url": sqs}
    broker = Connection("sqs://key:secret@", transport_options=options)
    monkeypatch.setattr(relay, "producers", producers[broker])
    monkeypatch.setattr(current_app._get_current_object(), "connection_for_write", lambda *_, **__: broker.clone())
    yield relay
    relay.ear.close()


def test_a_job_larger_than_amazon_takes_is_a_dead_letter_and_the_others_are_sent(relay: Relay) -> None:
    huge, small = lab_add.delay("x" * 2_000_000, ""), lab_add.delay(1, 2)
    relay.run_once()
    assert Job.objects.get(pk=small.id).state == Job.State.SENT
    assert Job.objects.get(pk=huge.id).state == Job.State.DEAD
    letter = DeadLetter.objects.get()
    assert (letter.job_id, letter.exception) == (Job.objects.get(pk=huge.id).pk, "MessageTooLarge")
    assert "the broker takes 1,048,576" in letter.message
    assert "Pass an id" in letter.message


def test_a_job_that_fills_a_call_of_its_own_is_sent(relay: Relay) -> None:
    large = lab_add.delay("x" * 200_000, "")
    relay.run_once()
    assert Job.objects.get(pk=large.id).state == Job.State.SENT


def test_a_queue_may_take_less_than_amazon_does(relay: Relay) -> None:
    queue = make_queue("default", None)
    relay.run_once()
    with relay.producers.acquire(block=True) as producer:
        client = producer.channel.sqs()
        client.set_queue_attributes(QueueUrl=queue.url, Attributes={"MaximumMessageSize": str(256 * 1024)})
    lab_add.delay("x" * 400_000, "")
    relay.run_once()
    assert "the broker takes 262,144" in DeadLetter.objects.get().message


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What our channel leaves to py-amqp's."""
    sent = Mock()
    monkeypatch.setattr(pyamqp.Channel, "basic_publish_confirm", sent)
    return sent


def rabbitmq_channel(version: str = "4.1.0") -> rabbitmq.Channel:
    channel = rabbitmq.Channel.__new__(rabbitmq.Channel)
    channel.connection = Mock(server_properties={"version": version}, frame_max=131_072)
    return channel


@pytest.mark.parametrize(("version", "largest"), [("3.13.7", rabbitmq.LARGEST_IN_3), ("4.1.0", rabbitmq.LARGEST)])
def test_rabbitmq_is_not_asked_to_take_what_closes_the_channel(sent: Mock, version: str, largest: int) -> None:
    channel = rabbitmq_channel(version)
    channel.basic_publish_confirm(Message(b"x" * largest))
    with pytest.raises(MessageTooLarge, match=f"the broker takes {largest:,}"):
        channel.basic_publish_confirm(Message(b"x" * (largest + 1)))
    sent.assert_called_once()


def test_rabbitmq_is_not_asked_to_take_headers_that_close_the_connection(sent: Mock) -> None:
    channel = rabbitmq_channel()
    channel.basic_publish_confirm(Message(b"", application_headers={"note": "x" * 131_000}))
    with pytest.raises(MessageTooLarge, match="The headers have 131,1"):
        channel.basic_publish_confirm(Message(b"", application_headers={"note": "x" * 131_100}))
    sent.assert_called_once()


@pytest.mark.parametrize("headers", [{"number": 2**63}, {"n" * 256: 1}, {"id": UUID(int=0)}])
def test_headers_for_which_amqp_has_no_form_are_refused_before_they_are_sent(
    sent: Mock, headers: dict[str, object]
) -> None:
    with pytest.raises(MessageRefused, match="The headers cannot be sent"):
        rabbitmq_channel().basic_publish_confirm(Message(b"", application_headers=headers))
    sent.assert_not_called()
