"""pytest reads this before Django is set up, so the imports are where they are used."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
