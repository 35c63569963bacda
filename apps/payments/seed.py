"""A historic charge for each seeded order, so that nothing charges or refunds it again."""

from django.db import transaction

from apps.orders import seed as orders
from apps.orders.models import Order
from apps.payments.models import Charge

STATUS = {
    Order.Status.PAID: Charge.Status.SUCCEEDED,
    Order.Status.REFUNDED: Charge.Status.REFUNDED,
    Order.Status.DECLINED: Charge.Status.DECLINED,
}


@transaction.atomic
def seed() -> None:
    """Safe to run twice: an order that has a charge gets no other."""
    orders.seed()
    uncharged = Order.objects.filter(request_key__startswith="seed-", charges=None)
    Charge.objects.bulk_create(_historic_charge(order) for order in uncharged)


def _historic_charge(order: Order) -> Charge:
    declined = order.status == Order.Status.DECLINED
    return Charge(
        order=order,
        number=1,
        amount_minor=order.total_minor,
        currency=order.currency,
        status=STATUS[Order.Status(order.status)],
        payment_intent=f"pi_historic_{order.number}",
        decline_code="generic_decline" if declined else "",
        decline_message="Your card was declined." if declined else "",
        recorded_at=order.placed_at,
        settled_at=order.paid_at or order.placed_at,
        historic=True,
    )
