"""pytest reads this before Django is set up, so the imports are where they are used."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.sqs import s3_server as s3_server
from tests.sqs import sqs as sqs

if TYPE_CHECKING:
    from pytest_django import Settings

    from tests.jobs.bench import Bench


@pytest.fixture
def bench(db: None) -> "Iterator[Bench]":
    """In one transaction, which is rolled back at the end."""
    from apps.jobs import origin
    from tests.jobs.bench import Bench

    yield Bench()
    origin.working_for(origin.Origin())


@pytest.fixture(autouse=True)
def nothing_counted_yet() -> None:
    """The depth of a queue is remembered for a second, and a test lasts for less."""
    from apps.jobs import backpressure

    backpressure._counted.clear()


@pytest.fixture(params=[-60, 60], ids=["slow", "fast"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host's is a minute off; PostgreSQL's is right."""
    from django.utils import timezone

    right = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: right() + timedelta(seconds=request.param))


@pytest.fixture
def no_grace_after_a_restart(settings: "Settings") -> None:
    """The rescue waits for a lease's time after PostgreSQL was started, which may have been a moment ago."""
    settings.JOBS_LEASE = timedelta(seconds=0)
