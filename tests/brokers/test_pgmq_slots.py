"""PostgreSQL as the broker: a worker's slot is free again, whether or not the database could be told."""

from unittest.mock import Mock

import psycopg
import pytest
from kombu.transport import pgmq as kombu_pgmq

from apps.jobs.brokers.postgresql import Channel


@pytest.mark.parametrize("method", ["basic_ack", "basic_reject"])
def test_a_slot_is_free_although_the_database_cannot_be_told(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(kombu_pgmq.Channel, method, Mock(side_effect=psycopg.OperationalError("away")))
    channel = Channel.__new__(Channel)
    channel.connection, channel._qos = Mock(), Mock()
    with pytest.raises(psycopg.OperationalError):
        getattr(channel, method)("tag")
    channel._qos.ack.assert_called_once_with("tag")
    channel.connection.drain_soon.assert_called_once()
