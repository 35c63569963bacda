"""The transport's own economy; what it makes of bad envelopes is in `test_consumer.py`."""

import redis
from celery import current_app
from kombu import Connection

from apps.jobs.transport import Channel


def open_channel(connection: Connection) -> Channel:
    channel = connection.default_channel
    assert isinstance(channel, Channel)
    return channel


def test_one_client_serves_every_command_of_a_channel(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        assert channel._create_client() is channel._create_client()


def test_what_blocks_has_a_client_of_its_own(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        assert channel._create_client(asynchronous=True) is not channel._create_client()


def test_after_its_pools_were_closed_a_channel_takes_a_client_of_the_new_pool(valkey: redis.Redis) -> None:
    with current_app.connection_for_write() as connection:
        channel = open_channel(connection)
        before = channel._create_client()
        channel._disconnect_pools()  # type: ignore[no-untyped-call]
        after = channel._create_client()
        assert after is not before
        assert after.connection_pool is channel.pool
        assert after.ping()
