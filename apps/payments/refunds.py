"""Give an order's money back once, by the same dance as the charge: record, ask, record the outcome."""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from apps.payments import client
from apps.payments.client import StripeKeySpent, StripeRefused, StripeUnavailable
from apps.payments.models import Refund
from apps.payments.settlement import locked, record_refund


class NothingToRefund(Exception):
    """The charge holds no money of the customer's."""


def refund_charge(charge_id: int, *, now: datetime | None = None) -> Refund:
    """Return the whole amount, and the refund; if it was returned already, return that refund and call nobody."""
    refund = record_refund_intent(charge_id)
    if refund.status == Refund.Status.SUCCEEDED:
        return refund
    try:
        stripe_refund = _refund_at_stripe(refund, now or timezone.now())
    except StripeKeySpent:
        refund.renew_key()
        raise
    except StripeUnavailable:
        Refund.objects.filter(pk=refund.pk, status=Refund.Status.RECORDED).update(status=Refund.Status.UNKNOWN)
        raise
    return record_refund(charge_id, stripe_refund, now=timezone.now())


@transaction.atomic
def record_refund_intent(charge_id: int) -> Refund:
    """The charge's one refund. Raises NothingToRefund unless the charge's money was taken by this shop."""
    charge = locked(charge_id)
    if charge.historic:
        raise NothingToRefund(f"{charge} was imported: its money has to be returned where it was taken.")
    if not charge.is_settled:
        raise NothingToRefund(f"{charge} is {charge.status}: no money was taken, so there is none to return.")
    refund, _ = Refund.objects.get_or_create(
        charge=charge, defaults={"amount_minor": charge.amount_minor, "currency": charge.currency}
    )
    return refund


def _refund_at_stripe(refund: Refund, now: datetime) -> str:
    """Stripe's id of the refund. Stripe never returns more than was paid, so "refused" may mean that it is done."""
    if refund.must_be_looked_up(now):
        return _find(refund) or _create(refund)
    try:
        return _create(refund)
    except StripeRefused:
        found = _find(refund)
        if not found:
            raise
        return found


def _find(refund: Refund) -> str:
    return client.find_refund(refund.charge.payment_intent, amount_minor=refund.amount_minor)


def _create(refund: Refund) -> str:
    return client.create_refund(
        refund.charge.payment_intent,
        amount_minor=refund.amount_minor,
        metadata={"order_id": str(refund.charge.order_id), "charge_id": str(refund.charge_id)},
        key=refund.idempotency_key,
    )
