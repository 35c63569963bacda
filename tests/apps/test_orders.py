"""Placing orders: one form, one order, one job; and who may."""

from collections.abc import Mapping
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry, LogEntryManager
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

import tasks
from apps.catalog.models import Product
from apps.jobs.models import Job
from apps.orders.models import Customer, Order
from apps.orders.services import CannotCancel, CannotPlaceOrder, cancel_order, place_order
from apps.payments.models import Charge, Refund
from tests.cast import history, permit
from tests.shop import a_customer, a_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def mug() -> Product:
    return a_product()


@pytest.fixture
def ada(client: Client) -> Customer:
    customer = a_customer("ada")
    permit(customer.user, "add_order", "change_order")
    client.force_login(customer.user)
    return customer


def form(buyer: Customer, **changed: Any) -> dict[str, Any]:
    return {"customer": buyer.pk, "request_key": "k-1", "sku": ["NS-0001"], "quantity": ["2"]} | changed


def place(client: Client, data: Mapping[str, Any]) -> Any:
    return client.post(reverse("orders:place"), data)


def charged(order: Order, status: str) -> Charge:
    return order.charges.create(number=1, amount_minor=order.total_minor, currency=order.currency, status=status)


def test_an_order_adds_up_in_minor_units_and_keeps_its_currency(ada: Customer, mug: Product) -> None:
    a_product("NS-0002", price_minor=99)
    order = place_order(ada, {"NS-0001": 2, "NS-0002": 3})
    assert (order.total_minor, order.currency, order.total) == (3197, "eur", "31.97 EUR")


def test_a_later_price_does_not_change_an_order(ada: Customer, mug: Product) -> None:
    order = place_order(ada, {"NS-0001": 1})
    Product.objects.update(price_minor=1)
    assert order.lines.get().amount == "14.50 EUR"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ({}, "at least one product"),
        ({"NS-0001": 0}, "between 1 and 100"),
        ({"NS-0001": 101}, "between 1 and 100"),
        ({"NS-9999": 1}, "We do not sell NS-9999"),
        ({"NS-0001": 1, "US-0001": 1}, "cannot mix currencies"),
        ({"NS-9000": 1}, "can be paid up to 999,999.99 EUR"),
    ],
)
def test_what_is_not_an_order_is_refused_with_a_sentence(
    ada: Customer, mug: Product, lines: dict[str, int], sentence: str
) -> None:
    a_product("US-0001", currency="usd")
    a_product("NS-9000", price_minor=100_000_000)
    with pytest.raises(CannotPlaceOrder, match=sentence):
        place_order(ada, lines)
    assert not Order.objects.exists()


def test_a_product_that_is_no_longer_sold_cannot_be_ordered(ada: Customer, mug: Product) -> None:
    Product.objects.update(active=False)
    with pytest.raises(CannotPlaceOrder, match="We do not sell"):
        place_order(ada, {"NS-0001": 1})


@pytest.mark.django_db(transaction=True)
def test_two_requests_with_one_key_that_race_give_one_order(
    ada: Customer, mug: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place_order(ada, {"NS-0001": 1}, request_key="k-1")
    looked_up = iter([None, first])
    monkeypatch.setattr("apps.orders.services._order_of_request", lambda _: next(looked_up))
    with transaction.atomic():
        assert place_order(ada, {"NS-0001": 1}, request_key="k-1") == first


def test_placing_an_order_starts_its_charge_in_the_same_breath(client: Client, ada: Customer, mug: Product) -> None:
    response = place(client, form(ada))
    order = Order.objects.get()
    assert (response.status_code, response["Location"]) == (302, reverse("orders:detail", args=[order.pk]))
    job = Job.objects.get(pk=str(order.charge_job))
    assert (job.task, job.kwargs, job.queue) == (tasks.charge_customer.name, {"order_id": order.pk}, "io")


def test_an_order_whose_job_cannot_be_recorded_does_not_exist(
    client: Client, ada: Customer, mug: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.charge_customer, "delay", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        place(client, form(ada))
    assert not Order.objects.exists()


def test_the_same_form_twice_is_one_order_with_one_job(client: Client, ada: Customer, mug: Product) -> None:
    assert place(client, form(ada))["Location"] == place(client, form(ada))["Location"]
    assert (Order.objects.count(), Job.objects.count()) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"customer": ""},
        {"customer": "abc"},
        {"customer": "999999999999999999999999"},
        {"customer": "\x00"},
        {"request_key": ""},
        {"request_key": "x" * 65},
        {"request_key": "a\x00b"},
        {"sku": []},
        {"sku": ["NS-0001", "NS-0001"]},
        {"sku": ["NS-\x00"]},
        {"sku": ["x" * 41]},
        {"sku": ["NS-0001"] * 51, "quantity": ["1"] * 51},
        {"quantity": ["0"]},
        {"quantity": ["-1"]},
        {"quantity": ["two"]},
        {"quantity": ["1e400"]},
        {"quantity": ["99999999999999999999"]},
        {"sku": ["NS-0001", "NS-0001"], "quantity": ["60", "60"]},
    ],
)
def test_a_form_that_makes_no_sense_is_answered_with_422(
    client: Client, ada: Customer, mug: Product, wrong: dict[str, Any]
) -> None:
    assert place(client, form(ada, **wrong)).status_code == 422
    assert (Order.objects.count(), Job.objects.count()) == (0, 0)


def test_a_form_that_is_refused_keeps_what_was_chosen(client: Client, ada: Customer, mug: Product) -> None:
    page = place(client, form(ada, sku=["", "NS-0001"], quantity=["1", "101"])).content.decode()
    assert 'list="products" value="NS-0001"' in page
    assert 'value="101"' in page


def test_the_form_names_and_prices_what_it_offers(client: Client, ada: Customer, mug: Product) -> None:
    Product.objects.create(sku="NS-0003", name="Out of sale", price_minor=1, active=False)
    page = client.get(reverse("orders:place")).text
    assert '<option value="NS-0001">Product NS-0001, 14.50 EUR</option>' in page
    assert "NS-0003" not in page
    assert "the first" not in page, "it offers all"


def test_the_form_of_a_large_catalog_is_small_and_takes_every_product_of_it(client: Client, ada: Customer) -> None:
    Product.objects.bulk_create(
        Product(sku=f"NS-{number:05}", name=f"Product {number}", price_minor=1450) for number in range(5_000)
    )
    page = client.get(reverse("orders:place")).text
    assert page.count('<option value="NS-') == 200
    assert "The list has the first 200" in page
    assert len(page) < 50_000
    assert place(client, form(ada, sku=["NS-04999"])).status_code == 302
    assert Order.objects.get().lines.get().sku == "NS-04999"


def test_empty_lines_of_the_form_are_not_meant(client: Client, ada: Customer, mug: Product) -> None:
    place(client, form(ada, sku=["", "NS-0001", " "], quantity=["1", "2", "1"]))
    assert Order.objects.get().lines.get().quantity == 2


def test_only_staff_place_orders(client: Client, ada: Customer, mug: Product) -> None:
    User.objects.update(is_staff=False)
    assert place(client, form(ada)).status_code == 403
    client.logout()
    assert place(client, form(ada)).status_code == 302
    assert not Order.objects.exists()


@pytest.mark.parametrize("name", ["charge-again", "refund", "cancel"])
def test_only_staff_change_orders_and_only_by_post(client: Client, ada: Customer, mug: Product, name: str) -> None:
    order = place_order(ada, {"NS-0001": 1})
    address = reverse(f"orders:{name}", args=[order.pk])
    assert client.get(address).status_code == 405
    assert client.post(reverse(f"orders:{name}", args=[order.pk + 1])).status_code == 404
    User.objects.update(is_staff=False)
    assert client.post(address).status_code == 403


def test_staff_without_the_permission_look_at_orders_and_move_no_money(
    client: Client, ada: Customer, mug: Product
) -> None:
    order = place_order(ada, {"NS-0001": 1})
    charged(order, "succeeded")
    ada.user.user_permissions.clear()
    assert place(client, form(ada)).status_code == 403
    for name in ("charge-again", "refund", "cancel"):
        assert client.post(reverse(f"orders:{name}", args=[order.pk])).status_code == 403
    assert (Order.objects.count(), Job.objects.count()) == (1, 0)
    page = client.get(reverse("orders:list")).text
    assert order.number in page
    assert reverse("orders:place") not in page


@pytest.mark.parametrize(("status", "names"), [("paid", ["refund"]), ("declined", ["charge-again", "cancel"])])
def test_who_may_change_orders_and_nobody_else_has_a_button_for_it(
    client: Client, ada: Customer, mug: Product, status: str, names: list[str]
) -> None:
    order = place_order(ada, {"NS-0001": 1})
    Order.objects.update(status=status, paid_at=timezone.now() if status == "paid" else None)
    address = reverse("orders:detail", args=[order.pk])
    buttons = [f'action="{reverse(f"orders:{name}", args=[order.pk])}"' for name in names]
    assert all(button in client.get(address).text for button in buttons)
    ada.user.user_permissions.clear()
    assert not any(button in client.get(address).text for button in buttons)


def test_an_order_is_placed_with_a_csrf_token_only(ada: Customer, mug: Product) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(ada.user)
    assert place(strict, form(ada)).status_code == 403


def test_a_customer_sees_own_orders_only(client: Client, ada: Customer, mug: Product) -> None:
    own, other = place_order(ada, {"NS-0001": 1}), place_order(a_customer("bert"), {"NS-0001": 1})
    User.objects.update(is_staff=False)
    page = client.get(reverse("orders:list")).content.decode()
    assert own.number in page
    assert other.number not in page
    assert client.get(reverse("orders:detail", args=[own.pk])).status_code == 200
    assert client.get(reverse("orders:detail", args=[other.pk])).status_code == 404


@pytest.mark.parametrize("status", ["recorded", "succeeded", "declined", "unknown"])
def test_the_pages_show_an_order_in_every_state_of_its_charge(
    client: Client, ada: Customer, mug: Product, status: str
) -> None:
    place(client, form(ada))
    charged(Order.objects.get(), status)
    for address in ("list", "place"):
        assert client.get(reverse(f"orders:{address}"), {"page": "none"}).status_code == 200
    page = client.get(reverse("orders:detail", args=[Order.objects.get().pk]))
    assert Charge.Status(status).label in page.content.decode()


def test_a_declined_order_is_charged_again_by_a_new_job(client: Client, ada: Customer, mug: Product) -> None:
    place(client, form(ada))
    order = Order.objects.get()
    charged(order, "declined")
    Order.objects.update(status="declined")
    Job.objects.all().delete()
    assert client.post(reverse("orders:charge-again", args=[order.pk])).status_code == 302
    assert Job.objects.get().kwargs == {"order_id": order.pk}
    assert client.post(reverse("orders:charge-again", args=[order.pk])).status_code == 409


def test_an_order_is_not_charged_again_while_its_last_job_still_runs(
    client: Client, ada: Customer, mug: Product
) -> None:
    """Stripe's webhook may close the charge before the job's own call returns; the job would not see another one."""
    place(client, form(ada))
    order = Order.objects.get()
    charged(order, "declined")
    Order.objects.update(status="declined")
    response = client.post(reverse("orders:charge-again", args=[order.pk]))
    assert response.status_code == 409
    assert "is still ending" in response.content.decode()
    order.refresh_from_db()
    assert (order.status, order.charges.count()) == ("declined", 1)


def test_a_refund_is_recorded_with_its_job_and_only_once(client: Client, ada: Customer, mug: Product) -> None:
    order = place_order(ada, {"NS-0001": 1})
    address = reverse("orders:refund", args=[order.pk])
    assert client.post(address).status_code == 409
    charge = charged(order, "recorded")
    assert client.post(address).status_code == 409
    Charge.objects.update(status="succeeded")
    for _ in range(2):
        assert client.post(address).status_code == 302
    assert Job.objects.get().kwargs == {"charge_id": charge.pk}


def test_an_order_is_cancelled_only_while_no_money_is_on_its_way(client: Client, ada: Customer, mug: Product) -> None:
    untouched, being_charged = place_order(ada, {"NS-0001": 1}), place_order(ada, {"NS-0001": 1})
    charged(being_charged, "recorded")
    assert cancel_order(untouched.pk).status == "cancelled"
    with pytest.raises(CannotCancel, match="is being charged, so"):
        cancel_order(being_charged.pk)
    assert client.post(reverse("orders:cancel", args=[being_charged.pk])).status_code == 409


def press(client: Client, name: str, order: Order) -> int:
    return int(client.post(reverse(f"orders:{name}", args=[order.pk])).status_code)


def test_who_did_what_to_an_order_is_in_its_history(client: Client, ada: Customer, mug: Product) -> None:
    place(client, form(ada))
    order = Order.objects.get()
    charge = charged(order, "declined")
    Order.objects.update(status="declined")
    Job.objects.all().delete()
    press(client, "charge-again", order)
    charge = order.charges.exclude(pk=charge.pk).get()
    Charge.objects.filter(pk=charge.pk).update(status="succeeded")
    press(client, "refund", order)
    assert history(order) == [
        ("ada", "Placed, and its charge of 29.00 EUR started."),
        ("ada", "Charge of 29.00 EUR started again."),
        ("ada", "Refund of 29.00 EUR started."),
    ]
    permit(ada.user, "view_order")
    assert "Refund of 29.00 EUR started." in client.get(reverse("admin:orders_order_history", args=[order.pk])).text


def test_who_cancelled_an_order_is_in_its_history(client: Client, ada: Customer, mug: Product) -> None:
    order = place_order(ada, {"NS-0001": 1})
    assert [press(client, "cancel", order), press(client, "cancel", order)] == [302, 409]
    assert history(order) == [("ada", "Cancelled.")]


def test_what_was_refused_or_done_already_is_not_in_the_history(client: Client, ada: Customer, mug: Product) -> None:
    place(client, form(ada, sku=["NS-9999"]))
    for _ in range(2):
        place(client, form(ada))
    order = Order.objects.get()
    assert [press(client, name, order) for name in ("charge-again", "refund")] == [409, 409]
    charged(order, "succeeded")
    assert [press(client, name, order) for name in ("cancel", "refund", "refund")] == [409, 302, 302]
    assert [said for _, said in history(order)] == [
        "Placed, and its charge of 29.00 EUR started.",
        "Refund of 29.00 EUR started.",
    ]
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("name", "charge", "status"),
    [("charge-again", "declined", "declined"), ("cancel", "declined", "declined"), ("refund", "succeeded", "placed")],
)
def test_what_cannot_be_written_into_the_history_is_not_done(
    client: Client, ada: Customer, mug: Product, monkeypatch: pytest.MonkeyPatch, name: str, charge: str, status: str
) -> None:
    order = place_order(ada, {"NS-0001": 1})
    charged(order, charge)
    Order.objects.update(status=status)
    monkeypatch.setattr(LogEntryManager, "log_actions", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        press(client, name, order)
    with pytest.raises(ZeroDivisionError):
        place(client, form(ada))
    assert Order.objects.get().status == status
    assert (order.charges.count(), Refund.objects.count(), Job.objects.count()) == (1, 0, 0)
