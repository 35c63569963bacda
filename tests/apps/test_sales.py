"""Sales by day and product, and the two months of orders that every new shop starts with."""

from collections import Counter
from datetime import UTC, date, datetime

import pytest
from django.contrib.auth.models import User

from apps.catalog.models import Product
from apps.orders.models import Order
from apps.orders.queries import Sales, sales_by_day_and_product
from apps.orders.services import place_order
from apps.payments.models import Charge
from apps.payments.seed import seed
from tests.shop import a_customer, a_product

pytestmark = pytest.mark.django_db

DAY = date(2026, 3, 29)


def paid(at: str, status: str = "paid", **lines: int) -> Order:
    order = place_order(
        a_customer(f"buyer-{Order.objects.count()}"), {sku.replace("_", "-"): n for sku, n in lines.items()}
    )
    Order.objects.filter(pk=order.pk).update(status=status, paid_at=datetime.fromisoformat(at).replace(tzinfo=UTC))
    return order


def test_sales_are_added_up_by_day_product_and_currency() -> None:
    a_product("MUG", price_minor=1000)
    a_product("POT", price_minor=500, currency="usd")
    paid("2026-03-29 00:00", MUG=2)
    paid("2026-03-29 23:59:59", MUG=3)
    paid("2026-03-29 12:00", POT=1)
    assert list(sales_by_day_and_product(DAY, DAY)) == [
        Sales(DAY, "MUG", "Product MUG", 5, 5000, "eur"),
        Sales(DAY, "POT", "Product POT", 1, 500, "usd"),
    ]


def test_the_first_and_the_last_day_count_and_those_around_them_do_not() -> None:
    a_product("MUG", price_minor=1000)
    for at in ("2026-03-28 23:59:59", "2026-03-29 00:00", "2026-03-30 23:59:59", "2026-03-31 00:00"):
        paid(at, MUG=1)
    assert [sales.day for sales in sales_by_day_and_product(DAY, date(2026, 3, 30))] == [DAY, date(2026, 3, 30)]


def test_what_was_given_back_is_not_a_sale() -> None:
    a_product("MUG")
    paid("2026-03-29 12:00", status="refunded", MUG=1)
    assert list(sales_by_day_and_product(DAY, DAY)) == []


def test_a_new_shop_has_products_customers_and_orders_and_a_second_seed_adds_nothing() -> None:
    for _ in range(2):
        seed()
        assert (Product.objects.count(), Order.objects.count(), Charge.objects.count()) == (40, 200, 200)
    assert list(User.objects.filter(customer__isnull=False).values_list("username", flat=True)) == [
        "ada",
        "bert",
        "cleo",
    ]
    assert Counter(Order.objects.values_list("status", flat=True)).most_common(1)[0][0] == "paid"


def test_seeded_orders_add_up_and_are_charged_already() -> None:
    seed()
    for order in Order.objects.prefetch_related("lines", "charges"):
        assert order.total_minor == sum(line.amount_minor for line in order.lines.all())
        [charge] = order.charges.all()
        assert charge.historic
        assert (charge.amount_minor, charge.currency) == (order.total_minor, order.currency)
