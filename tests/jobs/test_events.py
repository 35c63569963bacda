"""What a worker tells the world of its jobs leaves in batches."""

import threading
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


def test_a_message_is_acknowledged_when_its_job_ends_and_not_in_the_loops_next_turn(consumer: JobConsumer) -> None:
    settle = Mock()
    consumer.call_soon_ack(settle, "logger")
    settle.assert_called_once_with("logger")
    consumer.hub.call_soon.assert_not_called()


def test_another_thread_leaves_the_acknowledgement_to_the_loop(consumer: JobConsumer) -> None:
    settle = Mock()
    thread = threading.Thread(target=consumer.call_soon_ack, args=[settle])
    thread.start()
    thread.join()
    settle.assert_not_called()
    consumer.hub.call_soon.assert_called_once()


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
