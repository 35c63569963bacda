"""What a worker remembers of time limits."""

from unittest.mock import Mock

import pytest
from kombu.asynchronous.timer import Timer

from apps.jobs.timers import drop_cancelled


@pytest.fixture
def timer() -> Timer:
    return Timer()


def test_the_time_limits_of_jobs_that_have_ended_are_forgotten(timer: Timer) -> None:
    for limit in [timer.call_after(240.0, Mock()) for _ in range(100)]:
        limit.cancel()
    still_counts = Mock()
    timer.call_after(0.0, still_counts)
    drop_cancelled(timer)
    assert len(timer._queue) == 1
    _, entry = next(iter(timer))
    entry()
    still_counts.assert_called_once()


def test_the_loop_keeps_the_same_queue_in_order(timer: Timer) -> None:
    queue = timer._queue
    limits = [timer.call_after(after, Mock()) for after in (50.0, 10.0, 40.0, 20.0, 30.0)]
    for limit in limits[:3]:
        limit.cancel()
    drop_cancelled(timer)
    assert timer._queue is queue
    assert [scheduled.entry for scheduled in sorted(queue)] == [limits[3], limits[4]]


def test_a_few_that_are_cancelled_are_left_where_they_are(timer: Timer) -> None:
    limits = [timer.call_after(240.0, Mock()) for _ in range(3)]
    limits[0].cancel()
    drop_cancelled(timer)
    assert len(timer._queue) == 3
