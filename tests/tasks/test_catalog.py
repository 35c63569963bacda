"""Pushing to the supplier, and pulling from it page by page."""

import json
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import transaction
from redis import Redis

import tasks
from apps.catalog import changes, client
from apps.catalog.client import Page, SupplierRefused, SupplierUnavailable
from apps.catalog.models import Product, SupplierChange, SupplierCursor
from apps.jobs.limits import Rate
from apps.jobs.models import DeadLetter, Job
from apps.sandbox.client import Sandbox
from tests.jobs.bench import Bench
from tests.shop import a_product

# With real commits, because what a killed process leaves behind is what is tested.
pytestmark = pytest.mark.django_db(transaction=True)


OFFER = {"name": "Kite", "price_minor": 3390, "currency": "eur", "stock": 7, "active": True}
GOOD = {"sku": "NS-0002", "version": 2, "fields": OFFER}


class Killed(BaseException):
    """The process ends here."""


def changes_pulled() -> int:
    return SupplierChange.objects.count()


def jobs_for_changes() -> int:
    return Job.objects.filter(task=tasks.apply_supplier_change.name).count()


def pull() -> None:
    tasks.sync_external_data.apply(throw=True)


def test_a_pull_reads_every_page_and_starts_one_job_for_each_change(sandbox: Sandbox) -> None:
    pull()
    assert changes_pulled() == jobs_for_changes() == 120
    assert SupplierCursor.objects.get().value == "120"


def test_a_second_pull_finds_only_what_is_new(sandbox: Sandbox) -> None:
    pull()
    sandbox.publish_changes(7)
    pull()
    assert changes_pulled() == jobs_for_changes() == 127


@pytest.mark.parametrize("step", ["bulk_create", "delay_many"])
def test_a_pull_killed_between_a_page_and_its_cursor_loses_and_repeats_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owner: Any = SupplierChange.objects if step == "bulk_create" else tasks.apply_supplier_change
    finish = getattr(owner, step)
    pages = iter([True, False])

    def killed_at_the_second_page(*args: Any, **kwargs: Any) -> Any:
        done = finish(*args, **kwargs)
        if next(pages):
            return done
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(owner, step, killed_at_the_second_page)
        with pytest.raises(Killed):
            pull()
    assert changes_pulled() == jobs_for_changes() == 50
    pull()
    assert changes_pulled() == jobs_for_changes() == 120
    assert SupplierChange.objects.values("version").distinct().count() == 120


def test_two_pulls_at_once_save_each_change_once(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    save, others = changes.save_page, iter([True])

    def save_after_another_worker(page: Page) -> list[int]:
        if next(others, False):
            with transaction.atomic():
                save(page)
        return save(page)

    monkeypatch.setattr(changes, "save_page", save_after_another_worker)
    pull()
    assert changes_pulled() == 120


def test_a_supplier_that_fails_in_the_middle_is_asked_again_from_the_saved_page(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "error", count=1, matching="/changes")
    assert tasks.sync_external_data.apply().state == "SUCCESS"
    assert changes_pulled() == 120


@pytest.mark.parametrize(
    "bad",
    [
        {"version": 10**30},
        {"version": -1},
        {"sku": "NS-\0"},
        {"sku": "NS-\ud800"},
        {"fields": OFFER | {"name": "Ki\0te"}},
        {"fields": OFFER | {"no\0te": "x"}},
        {"fields": OFFER | {"stock": float("nan")}},
    ],
)
def test_a_change_that_no_row_can_hold_is_a_letter_and_stops_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bad: dict[str, Any]
) -> None:
    page = {"changes": [GOOD | {"sku": "NS-0001"} | bad, GOOD], "next_cursor": "2", "has_more": False}
    monkeypatch.setattr(client, "_ask", Mock(return_value=json.loads(json.dumps(page))))
    pull()
    bench.run_all()
    assert SupplierCursor.objects.get().value == "2"
    assert [product.sku for product in Product.objects.all()] == ["NS-0002"]
    assert "cannot be kept" in DeadLetter.objects.get().message


@pytest.mark.parametrize(
    "wrong",
    [{"next_cursor": "9" * 201}, {"next_cursor": "\0"}, {"changes": [GOOD | {"version": float("inf")}]}],
)
def test_a_page_that_is_not_what_was_agreed_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    page = {"changes": [], "next_cursor": "2", "has_more": False} | wrong
    monkeypatch.setattr(client, "_ask", Mock(return_value=json.loads(json.dumps(page))))
    with pytest.raises(SupplierUnavailable):
        changes.next_page()


def test_a_refused_product_is_permanent_without_a_retry(sandbox: Sandbox) -> None:
    result = tasks.sync_to_external_api.apply(kwargs={"record_id": a_product("BAD-0001").pk})
    assert isinstance(result.result, SupplierRefused)
    assert sandbox.counts()["asked"]["supplier"] == {"products.put": 1}


def test_a_rate_limit_costs_no_retry_and_asks_only_once(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "rate_limit", retry_after=30)
    result = tasks.sync_to_external_api.apply(kwargs={"record_id": a_product().pk})
    assert result.state == "IGNORED"
    assert sandbox.counts()["asked"]["supplier"] == {"products.put": 1}


def test_the_whole_fleet_shares_one_limit_and_a_refusal_waits_for_its_turn(
    sandbox: Sandbox, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.catalog.SUPPLIER_RATE", Rate("supplier", "2/minute"))
    record_id = a_product().pk
    states = [tasks.sync_to_external_api.apply(kwargs={"record_id": record_id}).state for _ in range(3)]
    assert states == ["SUCCESS", "SUCCESS", "IGNORED"]
    assert sandbox.counts()["asked"]["supplier"] == {"products.put": 2}


def test_a_product_pushed_twice_is_one_product(sandbox: Sandbox) -> None:
    product = a_product()
    for _ in range(2):
        tasks.sync_to_external_api.apply(kwargs={"record_id": product.pk}, throw=True)
    assert list(sandbox.products()) == ["NS-0001"]


def test_a_change_applied_twice_has_the_effects_of_one(sandbox: Sandbox) -> None:
    pull()
    change = SupplierChange.objects.order_by("version").first()
    assert change is not None
    for _ in range(2):
        tasks.apply_supplier_change.apply(kwargs={"change_id": change.pk}, throw=True)
    change.refresh_from_db()
    assert change.applied_at is not None


def test_the_limit_of_ten_a_minute_is_celerys_own() -> None:
    assert tasks.call_external_api.rate_limit == "10/m"
