"""The shop in the admin: lists that open, money that cannot be edited, and actions that start jobs."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

import tasks
from apps.catalog.models import Product, SupplierChange, SupplierCursor
from apps.jobs.models import Job
from apps.orders.models import Order
from apps.orders.services import place_order
from apps.payments.models import Charge
from tests.cast import history, permit, shopkeeper
from tests.shop import a_customer, a_product

pytestmark = pytest.mark.django_db

LISTS = [
    "catalog_product",
    "catalog_supplierchange",
    "catalog_suppliercursor",
    "orders_customer",
    "orders_order",
    "payments_charge",
    "payments_refund",
    "payments_webhookevent",
]

CHARGED = {"paid": "succeeded", "declined": "declined"}


@pytest.fixture
def shop() -> None:
    ada = a_customer()
    for sku in ("NS-0001", "NS-0002", "NS-0003"):
        a_product(sku)
    for status in ("paid", "declined"):
        order = place_order(ada, {"NS-0001": 1})
        Order.objects.filter(pk=order.pk).update(status=status, paid_at=timezone.now() if status == "paid" else None)
        order.charges.create(number=1, amount_minor=1450, currency="eur", status=CHARGED[status])
    SupplierChange.objects.create(sku="NS-0001", version=1)
    SupplierCursor.objects.create(feed="products")


def act(client: Client, of: str, action: str, *chosen: int) -> Any:
    return client.post(
        reverse(f"admin:{of}_changelist"), {"action": action, "_selected_action": chosen}, follow=True
    ).content.decode()


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("of", LISTS)
def test_each_list_opens_and_can_be_searched(admin_client: Client, of: str) -> None:
    for search in ({}, {"q": "ns"}, {"q": "' OR 1=1 --"}):
        assert admin_client.get(reverse(f"admin:{of}_changelist"), search).status_code == 200


@pytest.mark.usefixtures("shop")
def test_an_order_opens_and_none_of_its_money_can_be_edited(admin_client: Client) -> None:
    order = Order.objects.filter(status="paid")[0]
    address = reverse("admin:orders_order_change", args=[order.pk])
    page = admin_client.get(address).content.decode()
    assert order.total in page
    assert 'name="total_minor"' not in page
    assert admin_client.post(reverse("admin:payments_charge_change", args=[order.charges.get().pk])).status_code == 403


@pytest.mark.usefixtures("shop")
def test_charging_again_starts_a_job_for_the_declined_and_explains_itself_for_the_others(admin_client: Client) -> None:
    declined, paid = Order.objects.filter(status="declined")[0], Order.objects.filter(status="paid")[0]
    page = act(admin_client, "orders_order", "charge_again", declined.pk, paid.pk)
    assert f"{declined.number} is being charged again" in page
    assert f"Order {paid.number} is paid: only a declined order is charged again" in page
    assert Job.objects.get().kwargs == {"order_id": declined.pk}
    assert Charge.objects.filter(order=declined).count() == 2
    assert history(declined) == [("admin", "Charge of 14.50 EUR started again.")]
    assert history(paid) == []


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("of", "action"), [("orders_order", "charge_again"), ("catalog_product", "push_to_supplier")])
def test_more_than_a_request_should_do_at_once_is_refused_in_a_sentence(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, of: str, action: str
) -> None:
    monkeypatch.setattr("apps.orders.admin.MOST_AT_ONCE", 1)
    monkeypatch.setattr("apps.catalog.admin.MOST_AT_ONCE", 2)
    chosen = {"action": action, "select_across": "1", "_selected_action": "1"}
    page = admin_client.post(reverse(f"admin:{of}_changelist"), chosen, follow=True).text
    assert "Nothing was done" in page
    assert not Job.objects.exists()


@pytest.mark.usefixtures("shop")
def test_products_are_pushed_by_one_job_each(admin_client: Client) -> None:
    chosen = Product.objects.all()[:3]
    act(admin_client, "catalog_product", "push_to_supplier", *(product.pk for product in chosen))
    assert list(Job.objects.values_list("task", flat=True)) == [tasks.sync_to_external_api.name] * 3
    assert [history(product) for product in chosen] == [[("admin", "Push to the supplier started.")]] * 3


@pytest.mark.usefixtures("shop")
def test_a_product_that_is_pushed_already_gets_no_second_line_in_its_history(admin_client: Client) -> None:
    first, *others = Product.objects.all()
    act(admin_client, "catalog_product", "push_to_supplier", first.pk)
    admin_client.post(reverse("catalog:push", args=[first.pk]))
    act(admin_client, "catalog_product", "push_to_supplier", first.pk, *(product.pk for product in others))
    assert [len(history(product)) for product in (first, *others)] == [1, 1, 1]


@pytest.mark.usefixtures("shop")
def test_who_may_only_look_has_no_actions(client: Client) -> None:
    bert = shopkeeper("bert")
    permit(bert, "view_order")
    client.force_login(bert)
    act(client, "orders_order", "charge_again", Order.objects.filter(status="declined")[0].pk)
    assert not Job.objects.exists()
