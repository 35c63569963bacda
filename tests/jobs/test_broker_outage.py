"""What the broker's going away looks like, where kombu does not make it look like that. Found by `manage.py chaos`."""

import pytest
import redis
from celery import current_app
from django.db import transaction
from kombu.exceptions import BatchPublishError
from kombu.transport import redis as kombu_redis

from apps.jobs.models import Job
from apps.jobs.relay import Relay
from tasks.lab import lab_nothing


def test_using_a_channel_that_was_closed_under_us_is_a_lost_connection_and_no_reason_to_exit(
    valkey: redis.Redis,
) -> None:
    connection = current_app.connection_for_write()
    channel = connection.channel()
    connection.close()
    with pytest.raises(redis.ConnectionError), channel.conn_or_acquire():
        pass


def test_a_message_that_a_full_broker_cannot_note_as_taken_is_worked_on_all_the_same(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(kombu_redis.QoS, "append", full)
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.qos.append("a message", "its tag")
        assert channel.qos._delivered == {"its tag": "a message"}
        assert issubclass(redis.exceptions.OutOfMemoryError, connection.connection_errors)


@pytest.mark.django_db(transaction=True)
def test_a_batch_of_which_nobody_knows_whether_it_arrived_stays_queued_and_the_relay_goes_on(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise BatchPublishError("Redis publish batch failed; delivery is uncertain")

    relay = Relay(current_app)
    monkeypatch.setattr(relay, "_publish", cut_off)
    monkeypatch.setattr("apps.jobs.relay.time.sleep", lambda _: None)
    with transaction.atomic():
        job = lab_nothing.delay()

    relay._turn()

    assert Job.objects.get(pk=job.id).state == Job.State.QUEUED
