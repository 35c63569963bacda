"""Charges and refunds: Stripe is slow and sometimes away, and nobody may pay twice."""

from celery import shared_task

from apps.payments import refunds, services
from tasks.policies import STRIPE

# Four calls to Stripe at 25 s each at most, and some room: see the client's time-outs.
SOFT_TIME_LIMIT = 120
TIME_LIMIT = 150


@shared_task(unique=("order_id",), soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT, **STRIPE)
def charge_customer(order_id: int) -> None:
    """Take an order's money. A declined card is permanent.

    Safe to run twice: the charge is recorded under an idempotency key before Stripe is asked, and Stripe is asked what
    it has before it is asked for more.
    """
    services.charge_order(order_id)


@shared_task(unique=("charge_id",), soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT, **STRIPE)
def refund_charge(charge_id: int) -> None:
    """Give a charge's money back.

    Safe to run twice: a charge has one refund, recorded under an idempotency key before Stripe is asked.
    """
    refunds.refund_charge(charge_id)
