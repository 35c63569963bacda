"""Who asks for jobs, and for how long."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from apps.local.chaos.journal import Journal, PlacedOrder, Promise
from apps.local.chaos.producer import SHOPPERS, Clerk, Producers, Shopper
from apps.local.waiting import wait_for


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def producers(journal: Journal) -> Iterator[Producers]:
    """Of a run of twenty jobs, all of which the clerk records at once."""
    found = Producers(journal, seed=1, jobs=20, seconds=1.0, url="")
    shopper = SimpleNamespace(
        sign_in=lambda: None,
        prepare=lambda: None,
        work=lambda: journal.order(PlacedOrder("key", 1, "paid", 1)),
    )
    found.clerk = cast(
        Clerk, SimpleNamespace(work=lambda: journal.accept([Promise(str(n), "lab_nothing") for n in range(20)]))
    )
    found.shoppers = [cast(Shopper, shopper)] * SHOPPERS
    found.start()
    yield found
    found.plan_is_over.set()
    assert wait_for(lambda: not found.are_busy, 10)


def test_shoppers_of_a_small_run_go_on_until_the_plan_is_over(producers: Producers, journal: Journal) -> None:
    assert wait_for(lambda: journal.count >= 20, 10)
    placed = len(journal.orders)
    assert wait_for(lambda: len(journal.orders) > placed, 10)


def test_shoppers_stop_when_the_plan_is_over_and_all_jobs_are_there(producers: Producers) -> None:
    producers.plan_is_over.set()
    assert wait_for(lambda: not producers.are_busy, 10)
