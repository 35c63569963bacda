"""What reports ask of the orders."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import F, Sum
from django.db.models.functions import TruncDate

from apps.orders.models import Order, OrderLine

# One round trip for this many rows: a year of sales must not be held in memory.
ROWS_A_FETCH = 2_000


@dataclass(frozen=True)
class Sales:
    """What was sold of one product on one day (UTC), in one currency."""

    day: date
    sku: str
    name: str
    quantity: int
    amount_minor: int
    currency: str


def sales_by_day_and_product(start: date, end: date) -> Iterator[Sales]:
    """Sales of the days from `start` to `end`, both included, in order; a refunded order is not a sale."""
    lines = (
        OrderLine.objects.filter(
            order__status=Order.Status.PAID,
            order__paid_at__gte=_midnight(start),
            order__paid_at__lt=_midnight(end + timedelta(days=1)),
        )
        .values(
            "sku",
            day=TruncDate("order__paid_at", tzinfo=UTC),
            name=F("product__name"),
            currency=F("order__currency"),
        )
        .annotate(
            sold=Sum("quantity"),
            taken=Sum(F("quantity") * F("unit_price_minor")),
        )
        .order_by("day", "sku", "currency")
    )
    for line in lines.iterator(chunk_size=ROWS_A_FETCH):
        yield Sales(line["day"], line["sku"], line["name"], line["sold"], line["taken"], line["currency"])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)
