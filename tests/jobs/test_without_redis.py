"""Where there is no Redis, PostgreSQL counts the rates and holds the locks of broker-only tasks."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.jobs import locks, unique, windows
from apps.jobs.limits import Rate
from apps.jobs.models import BrokerOnlyLock, RateWindow
from apps.jobs.snooze import Snooze
from tests.jobs.test_limits import allowed, at_once

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_redis(settings: Any) -> None:
    settings.REDIS_URL = ""


def test_no_more_calls_than_the_rate_allows_whoever_makes_them() -> None:
    assert at_once(20, lambda _: allowed(Rate("supplier", "5/minute"))).count(True) == 5


def test_who_is_refused_is_told_when_a_place_is_free() -> None:
    rate = Rate("supplier", "2/minute")
    rate.acquire()
    rate.acquire()
    with pytest.raises(Snooze) as refused:
        rate.acquire()
    assert 55 < refused.value.seconds <= 60 + 2 * 60 / 2


def test_a_place_is_free_again_when_its_time_is_over() -> None:
    assert windows.take("supplier", 1, 60) is None
    assert windows.take("supplier", 1, 60)
    RateWindow.objects.update(taken_at=[timezone.now() - timedelta(seconds=61)])
    assert windows.take("supplier", 1, 60) is None


def test_of_many_that_ask_for_a_lock_at_once_one_has_it() -> None:
    owners = at_once(20, lambda number: unique.lock("report", f"job {number}", 60))
    assert len(set(owners)) == 1


def test_only_its_owner_releases_a_lock() -> None:
    assert unique.lock("report", "first", 60) == "first"
    unique.unlock("report", "second")
    assert unique.lock("report", "second", 60) == "first"
    unique.unlock("report", "first")
    assert unique.lock("report", "second", 60) == "second"


def test_a_lock_whose_time_is_over_is_anybodys_and_leaves_no_row() -> None:
    assert locks.take("report", "died", -1) == "died"
    assert locks.take("report", "next", 60) == "next"
    locks.take("another", "died too", -1)
    locks.release("report", "next")
    assert not BrokerOnlyLock.objects.exists()
