"""The cast as customers, and two months of orders that were paid, declined or refunded before this shop had jobs."""

from datetime import datetime, timedelta
from random import Random

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from apps.accounts import seed as accounts
from apps.catalog import seed as catalog
from apps.catalog.models import Product
from apps.orders.models import Customer, Order, OrderLine
from apps.orders.services import order_numbers

CARDS = {"ada": "pm_card_visa", "bert": "pm_card_chargeDeclined", "cleo": "pm_card_visa"}
ORDERS = 200
DAYS = 60


def seed() -> None:
    """Safe to run twice: the orders are made once, the customers' cards are set again."""
    accounts.seed()
    catalog.seed()
    customers = {name: _customer(name, card) for name, card in CARDS.items()}
    if not Order.objects.filter(request_key=_request_key(0)).exists():
        _orders(customers, Random(2), timezone.now())


def _customer(name: str, card: str) -> Customer:
    user = User.objects.get(username=name)
    customer, _ = Customer.objects.update_or_create(
        user=user, defaults={"stripe_customer": f"cus_{name}", "payment_method": card}
    )
    return customer


@transaction.atomic
def _orders(customers: dict[str, Customer], rng: Random, now: datetime) -> None:
    """The same shop from the same `rng`. Bert's card is declined; the others pay, and now and then send things back."""
    products = list(Product.objects.filter(currency="eur", active=True))
    numbers = order_numbers(ORDERS)
    times = sorted(now - timedelta(days=rng.uniform(0.1, DAYS)) for _ in range(ORDERS))
    orders, lines = [], []
    for index in range(ORDERS):
        name = rng.choices(["ada", "cleo", "bert"], weights=[6, 4, 1])[0]
        order = Order(customer=customers[name], number=numbers[index], currency="eur", request_key=_request_key(index))
        order.placed_at = times[index]
        order.status = _status(name, rng)
        order.paid_at = None if order.status == Order.Status.DECLINED else order.placed_at + timedelta(seconds=2)
        own_lines = [_line(order, product, rng) for product in rng.sample(products, rng.randint(1, 4))]
        order.total_minor = sum(line.amount_minor for line in own_lines)
        orders.append(order)
        lines += own_lines
    Order.objects.bulk_create(orders)
    OrderLine.objects.bulk_create(lines)


def _status(name: str, rng: Random) -> Order.Status:
    if name == "bert":
        return Order.Status.DECLINED
    return Order.Status.REFUNDED if rng.random() < 0.04 else Order.Status.PAID


def _line(order: Order, product: Product, rng: Random) -> OrderLine:
    quantity = rng.choices([1, 2, 3, 6], weights=[12, 4, 2, 1])[0]
    return OrderLine(
        order=order, product=product, sku=product.sku, quantity=quantity, unit_price_minor=product.price_minor
    )


def _request_key(index: int) -> str:
    return f"seed-{index:04d}"
