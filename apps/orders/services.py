"""What happens to an order. The money's side of it is in `apps.payments`."""

from collections.abc import Mapping
from datetime import datetime

from django.db import IntegrityError, connection, transaction

from apps.catalog.models import Product
from apps.catalog.money import formatted
from apps.orders.models import Customer, Order, OrderLine

# More of one product is a slip of the finger.
MOST_OF_ONE_PRODUCT = 100
# Stripe takes eight digits, whatever the currency.
LARGEST_TOTAL_MINOR = 99_999_999


class CannotPlaceOrder(Exception):
    """What was asked for is not an order."""


class CannotCancel(Exception):
    """The order's money has been taken, or is about to be."""


def place_order(customer: Customer, lines: Mapping[str, int], request_key: str | None = None) -> Order:
    """Write an order of `lines` (how many of which sku) at today's prices.

    A second call with the same request key returns the order of the first, whoever wins the race. The caller starts
    the charge in the same transaction. Raises CannotPlaceOrder with a sentence for the customer.
    """
    placed = _order_of_request(request_key)
    if placed:
        return placed
    products = _products(lines)
    try:
        with transaction.atomic():
            return _write(customer, products, lines, request_key)
    except IntegrityError:
        placed = _order_of_request(request_key)
        if placed is None:
            raise
        return placed


def mark_placed(order: Order) -> None:
    _move(order, Order.Status.PLACED, None)


def mark_paid(order: Order, *, paid_at: datetime) -> None:
    _move(order, Order.Status.PAID, paid_at)


def mark_declined(order: Order) -> None:
    _move(order, Order.Status.DECLINED, None)


def mark_refunded(order: Order) -> None:
    _move(order, Order.Status.REFUNDED, order.paid_at)


@transaction.atomic
def cancel_order(order_id: int) -> Order:
    """Cancel an order that was declined, or whose charge nobody has begun."""
    order = Order.objects.select_for_update().get(pk=order_id)
    untouched = order.status == Order.Status.PLACED and not order.charges.exists()
    if order.status != Order.Status.DECLINED and not untouched:
        state = "being charged" if order.status == Order.Status.PLACED else order.status
        raise CannotCancel(f"Order {order.number} is {state}, so it cannot be cancelled.")
    _move(order, Order.Status.CANCELLED, None)
    return order


def _move(order: Order, status: Order.Status, paid_at: datetime | None) -> None:
    """The caller holds the order's lock."""
    order.status, order.paid_at = status, paid_at
    order.save(update_fields=["status", "paid_at"])


def _order_of_request(request_key: str | None) -> Order | None:
    return Order.objects.filter(request_key=request_key).first() if request_key else None


def _products(lines: Mapping[str, int]) -> list[Product]:
    if not lines:
        raise CannotPlaceOrder("An order needs at least one product.")
    for sku, quantity in lines.items():
        if not 1 <= quantity <= MOST_OF_ONE_PRODUCT:
            raise CannotPlaceOrder(f"The quantity of {sku} must be between 1 and {MOST_OF_ONE_PRODUCT}.")
    products = list(Product.objects.filter(sku__in=lines, active=True))
    missing = sorted(set(lines) - {product.sku for product in products})
    if missing:
        raise CannotPlaceOrder(f"We do not sell {', '.join(missing)}.")
    if len({product.currency for product in products}) > 1:
        raise CannotPlaceOrder("One order cannot mix currencies.")
    if _total_minor(products, lines) > LARGEST_TOTAL_MINOR:
        most = formatted(LARGEST_TOTAL_MINOR, products[0].currency)
        raise CannotPlaceOrder(f"One order can be paid up to {most}. Please divide it.")
    return products


def _total_minor(products: list[Product], lines: Mapping[str, int]) -> int:
    return sum(product.price_minor * lines[product.sku] for product in products)


def _write(customer: Customer, products: list[Product], lines: Mapping[str, int], request_key: str | None) -> Order:
    order = Order.objects.create(
        customer=customer,
        number=order_numbers(1)[0],
        currency=products[0].currency,
        total_minor=_total_minor(products, lines),
        request_key=request_key or None,
    )
    OrderLine.objects.bulk_create(
        OrderLine(
            order=order,
            product=product,
            sku=product.sku,
            quantity=lines[product.sku],
            unit_price_minor=product.price_minor,
        )
        for product in products
    )
    return order


def order_numbers(count: int) -> list[str]:
    """Draw numbers that no other order has or will have."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('orders_number') FROM generate_series(1, %s)", [count])
        return [f"NS-{number}" for (number,) in cursor.fetchall()]
