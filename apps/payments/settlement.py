"""How a charge ends in our books. Database only, each in one transaction, and harmless the second time.

The charge's own job and Stripe's webhook both come here, in any order and at once. Whoever changes a charge locks its
order first, so that they wait for each other and nobody waits in a circle.
"""

from datetime import datetime

from django.db import transaction

from apps.catalog.money import formatted
from apps.orders import services as orders
from apps.orders.models import Order
from apps.payments.client import Intent
from apps.payments.models import Charge, Refund


class PaymentConflict(Exception):
    """Stripe and our books do not agree, and only a person can say who is right."""


class AmountMismatch(PaymentConflict):
    def __init__(self, what: str, recorded: str, found: str) -> None:
        super().__init__(f"{what}: the charge was recorded with {recorded}, and now it is {found}.")


@transaction.atomic
def record_success(charge_id: int, intent: Intent, *, now: datetime) -> Charge:
    """Close the charge and its order as paid. A decline reported earlier gives way: the money has moved, unless it
    has also been given back.
    """
    charge = locked(charge_id)
    check_amount(charge, "The payment's amount has changed at Stripe", intent.amount_minor, intent.currency)
    given_back = Refund.objects.filter(charge=charge, status=Refund.Status.SUCCEEDED).exists()
    if charge.is_settled or given_back:
        return charge
    _check_that_it_is_the_only_payment(charge)
    charge.status, charge.payment_intent, charge.settled_at = Charge.Status.SUCCEEDED, intent.id, now
    charge.decline_code = charge.decline_message = ""
    charge.save()
    orders.mark_paid(charge.order, paid_at=now)
    return charge


@transaction.atomic
def record_decline(charge_id: int, intent_id: str, code: str, message: str, *, now: datetime) -> Charge:
    """Close the charge as declined. A late message about a charge that has succeeded since changes nothing."""
    charge = locked(charge_id)
    if not charge.is_open:
        return charge
    charge.status, charge.payment_intent, charge.settled_at = Charge.Status.DECLINED, intent_id, now
    charge.decline_code, charge.decline_message = code[:64], message[:500]
    charge.save()
    orders.mark_declined(charge.order)
    return charge


@transaction.atomic
def record_refund(charge_id: int, stripe_refund: str, *, now: datetime) -> Refund:
    """Close the refund, its charge and its order. A refund made by hand at Stripe gets its row here.

    A declined charge stays declined, and its order as it is: another charge may have taken its place.
    """
    charge = locked(charge_id)
    refund, _ = Refund.objects.get_or_create(
        charge=charge, defaults={"amount_minor": charge.amount_minor, "currency": charge.currency}
    )
    if refund.status == Refund.Status.SUCCEEDED:
        return refund
    refund.status, refund.stripe_refund, refund.settled_at = Refund.Status.SUCCEEDED, stripe_refund, now
    refund.save()
    if charge.status != Charge.Status.DECLINED:
        charge.status = Charge.Status.REFUNDED
        charge.save(update_fields=["status"])
        orders.mark_refunded(charge.order)
    return refund


def locked(charge_id: int) -> Charge:
    """The charge as it is now, with its order locked until the transaction ends."""
    order = Order.objects.select_for_update().get(charges__pk=charge_id)
    charge = Charge.objects.get(pk=charge_id)
    charge.order = order
    return charge


def check_amount(charge: Charge, what: str, amount_minor: int, currency: str) -> None:
    if (amount_minor, currency) != (charge.amount_minor, charge.currency):
        raise AmountMismatch(what, charge.amount, formatted(amount_minor, currency))


def _check_that_it_is_the_only_payment(charge: Charge) -> None:
    other = charge.order.charges.exclude(pk=charge.pk).exclude(status=Charge.Status.DECLINED).first()
    if other:
        raise PaymentConflict(
            f"Stripe reports {charge} as paid after it was declined, and {other} has taken its place. "
            "One of the two payments has to be given back."
        )
