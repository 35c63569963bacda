"""What a worker tells the world of its jobs leaves in batches."""

import time
from unittest.mock import Mock

import pytest

from apps.jobs.consumer import EVENTS_EVERY, JobConsumer


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Mock:
    clock = Mock(return_value=100.0)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def consumer() -> JobConsumer:
    consumer = JobConsumer.__new__(JobConsumer)
    consumer.hub = consumer.timer = Mock()
    return consumer


def test_many_events_set_the_timer_once(now: Mock, consumer: JobConsumer) -> None:
    for _ in range(10):
        consumer.on_send_event_buffered()
    consumer.timer.call_after.assert_called_once_with(EVENTS_EVERY, consumer._flush_events)


def test_an_event_after_the_batch_sets_the_timer_again_though_a_lost_connection_has_cleared_it(
    now: Mock, consumer: JobConsumer
) -> None:
    consumer.on_send_event_buffered()
    now.return_value += EVENTS_EVERY
    consumer.on_send_event_buffered()
    assert consumer.timer.call_after.call_count == 2
