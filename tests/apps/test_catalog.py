"""What the shop and its supplier tell each other, over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

import tasks
from apps.catalog import changes, services
from apps.catalog import client as client_of_supplier
from apps.catalog.changes import BadChange, apply_change
from apps.catalog.client import SupplierBusy, SupplierRefused, SupplierUnavailable
from apps.catalog.models import Product, SupplierChange
from apps.catalog.money import formatted
from apps.jobs.models import Job
from apps.sandbox.client import Sandbox
from tests.cast import history, permit, shopkeeper
from tests.shop import a_product

pytestmark = pytest.mark.django_db

OFFER = {"name": "Kite", "price_minor": 3390, "currency": "eur", "stock": 7, "active": True}


def a_change(version: int = 1, sku: str = "NS-0001", **fields: Any) -> SupplierChange:
    return SupplierChange.objects.create(sku=sku, version=version, fields=OFFER | fields)


@contextmanager
def redirecting_to(address: str) -> Iterator[str]:
    """A server that sends everybody somewhere else."""

    def answer(_: Request) -> Response:
        return Response(status=307, headers={"Location": address})

    server = make_server("127.0.0.1", 0, Request.application(answer))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_product_is_put_at_the_supplier_as_it_is_now(sandbox: Sandbox) -> None:
    product = a_product()
    services.push_product(product.pk)
    sent = sandbox.products()["NS-0001"]["product"]
    assert (sent["name"], sent["price_minor"], sent["currency"]) == ("Product NS-0001", 1450, "eur")
    product.refresh_from_db()
    assert product.synced_at is not None
    assert product.synced_at <= timezone.now()


def test_a_sku_cannot_choose_another_address(sandbox: Sandbox) -> None:
    with pytest.raises(SupplierRefused, match="404"):
        services.push_product(a_product("../stock/NS-0001").pk)


def test_a_refused_product_is_permanent_with_the_suppliers_reason(sandbox: Sandbox) -> None:
    product = a_product("BAD-0001")
    with pytest.raises(SupplierRefused, match="422: BAD-0001 is not a number that we can list"):
        services.push_product(product.pk)
    product.refresh_from_db()
    assert product.synced_at is None


def test_a_rate_limit_is_a_pause_of_the_length_that_the_supplier_names(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "rate_limit", count=1, retry_after=42)
    with pytest.raises(SupplierBusy) as pause:
        services.push_product(a_product().pk)
    assert pause.value.seconds == 42


@pytest.mark.parametrize("mode", ["down", "error", "error_after", "cut"])
def test_a_supplier_that_gives_no_final_answer_may_be_asked_again(sandbox: Sandbox, mode: str) -> None:
    product = a_product()
    sandbox.fault("supplier", mode, count=1)
    with pytest.raises(SupplierUnavailable):
        services.push_product(product.pk)
    services.push_product(product.pk)
    assert sandbox.products()["NS-0001"]["product"]["name"] == product.name


def test_a_wrong_key_is_permanent(sandbox: Sandbox, settings: Settings) -> None:
    settings.SUPPLIER_API_KEY = "of somebody else"
    with pytest.raises(SupplierRefused, match="401"):
        services.push_product(a_product().pk)


def test_a_redirect_is_not_followed(sandbox: Sandbox, settings: Settings) -> None:
    with redirecting_to(f"{sandbox.url}/supplier/products/NS-0001") as address:
        settings.SUPPLIER_API_BASE = address
        with pytest.raises(SupplierRefused, match="307"):
            services.push_product(a_product().pk)
    assert sandbox.products() == {}


def test_the_stock_is_what_the_supplier_says(sandbox: Sandbox) -> None:
    product = a_product()
    stock = services.refresh_stock(product.pk)
    product.refresh_from_db()
    assert product.stock == stock


def test_a_new_product_takes_everything_from_its_change() -> None:
    apply_change(a_change(version=3).pk)
    product = Product.objects.get(sku="NS-0001")
    assert (product.name, product.price_minor, product.stock, product.supplier_version) == ("Kite", 3390, 7, 3)


def test_the_shops_own_name_and_price_stay() -> None:
    a_product()
    apply_change(a_change(stock=99, active=False).pk)
    product = Product.objects.get()
    assert (product.name, product.price_minor) == ("Product NS-0001", 1450)
    assert (product.stock, product.active) == (99, False)


def test_changes_in_the_wrong_order_and_twice_end_in_the_newest() -> None:
    newer, older = a_change(version=2, stock=20), a_change(version=1, stock=10)
    for change in (newer, older, newer, older):
        apply_change(change.pk)
    assert Product.objects.get().stock == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"price_minor": 0},
        {"price_minor": "a lot"},
        {"price_minor": None},
        {"stock": -1},
        {"stock": 2**40},
        {"currency": "EURO"},
        {"currency": "€"},
        {"active": "perhaps"},
        {"name": ""},
        {"name": "x" * 201},
    ],
)
def test_a_change_that_is_no_product_is_permanent_and_changes_nothing(wrong: dict[str, Any]) -> None:
    product = a_product()
    with pytest.raises(BadChange, match="NS-0001 version 1"):
        apply_change(a_change(**wrong).pk)
    product.refresh_from_db()
    assert (product.stock, product.supplier_version) == (5, 0)


def test_a_change_that_does_not_say_everything_is_permanent() -> None:
    change = SupplierChange.objects.create(sku="NS-0001", version=1, fields={"name": "Kite"})
    with pytest.raises(BadChange, match="does not say its 'price_minor'"):
        apply_change(change.pk)


@pytest.mark.parametrize("wrong", [{"version": 10**30}, {"version": float("inf")}, {"sku": "NS-\0"}])
def test_what_the_supplier_tells_and_no_row_can_hold_is_permanent(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadChange):
        changes.hear({"sku": "NS-0001", "version": 1, "fields": OFFER} | wrong)


def test_a_page_fetched_by_two_workers_is_saved_once(sandbox: Sandbox) -> None:
    mine, theirs = changes.next_page(), changes.next_page()
    assert len(changes.save_page(mine)) == 50
    assert changes.save_page(theirs) == []
    assert changes.next_page().cursor == "50"


def test_money_is_shown_with_its_currency_and_as_many_places_as_that_has() -> None:
    assert formatted(123456, "eur") == "1,234.56 EUR"
    assert formatted(5, "usd") == "0.05 USD"
    assert formatted(1234, "jpy") == "1,234 JPY"
    assert formatted(1234560, "kwd") == "1,234.560 KWD"
    assert formatted(50000, "ugx") == "500.00 UGX"


def test_pushing_and_pulling_is_for_staff_with_the_permission_and_starts_jobs(client: Client) -> None:
    product = a_product()
    ada = shopkeeper("ada")
    permit(ada, "change_product")
    client.force_login(ada)
    push, pull = reverse("catalog:push", args=[product.pk]), reverse("catalog:pull")
    assert client.get(push).status_code == 405
    assert client.post(reverse("catalog:push", args=[product.pk + 1])).status_code == 404
    buttons = [f'action="{push}"', f'action="{pull}"']
    assert [button in client.get(reverse("catalog:list")).text for button in buttons] == [True, True]
    assert client.post(push).status_code == client.post(pull).status_code == 302
    expected = {tasks.sync_to_external_api.name, tasks.sync_external_data.name}
    assert set(Job.objects.values_list("task", flat=True)) == expected
    assert history(product) == [("ada", "Push to the supplier started.")]
    User.objects.update(is_staff=False)
    assert client.post(push).status_code == client.post(pull).status_code == 403
    User.objects.update(is_staff=True)
    ada.user_permissions.clear()
    assert client.post(push).status_code == client.post(pull).status_code == 403
    assert [button in client.get(reverse("catalog:list")).text for button in buttons] == [False, False]


def test_the_list_shows_products_to_whoever_is_signed_in(client: Client) -> None:
    a_product()
    assert client.get(reverse("catalog:list")).status_code == 302
    client.force_login(User.objects.create_user("guest"))
    assert "14.50 EUR" in client.get(reverse("catalog:list"), {"page": "-1"}).content.decode()


@pytest.mark.django_db(transaction=True)
def test_the_supplier_is_never_asked_inside_a_transaction(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    in_transaction = []
    fetch = client_of_supplier.fetch_changes

    def watched(cursor: str) -> Any:
        in_transaction.append(connection.in_atomic_block)
        return fetch(cursor)

    monkeypatch.setattr(client_of_supplier, "fetch_changes", watched)
    changes.next_page()
    assert in_transaction == [False]
