"""Charge an order once, whatever happens.

The dance: record the charge and its idempotency key, and commit; create the payment intent, and commit its id; confirm
it; record the outcome. A process may die between any two steps, or lose any answer. The next try then finds the
charge, looks at what Stripe has of it, and goes on from there. Stripe is never called inside a transaction.
"""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.orders import services as orders
from apps.orders.models import Order
from apps.payments import client
from apps.payments.client import CardDeclined, Intent, Purse, StripeKeySpent, StripeRefused, StripeUnavailable
from apps.payments.models import Charge
from apps.payments.settlement import check_amount, record_decline, record_success

# Stripe's clock may run ahead of ours or behind; an intent looked up by its age must not hide in the difference.
CLOCK_SKEW = timedelta(minutes=5)


class OrderNotChargeable(Exception):
    """The order is not waiting for money."""


def charge_order(order_id: int, *, now: datetime | None = None) -> Charge:
    """Take the order's money and return the charge; if it was taken already, return that charge and call nobody.

    Raises CardDeclined (for the same charge again and again, without asking the bank again), StripeUnavailable and
    StripeBusy when a later try may succeed, OrderNotChargeable, AmountMismatch, StripeRefused and StripeMisconfigured
    when it will not.
    """
    now = now or timezone.now()
    charge = record_charge(order_id)
    if charge.is_settled:
        return charge
    if charge.status == Charge.Status.DECLINED:
        raise CardDeclined(charge.decline_code, charge.decline_message)
    try:
        intent = _confirmed(charge, _intent_of(charge, now))
    except CardDeclined as error:
        record_decline(charge.pk, charge.payment_intent, error.code, error.message, now=timezone.now())
        raise
    except StripeKeySpent:
        charge.renew_key()
        raise
    except StripeUnavailable:
        _note_that_the_outcome_is_unknown(charge)
        raise
    return record_success(charge.pk, intent, now=timezone.now())


@transaction.atomic(durable=True)
def record_charge(order_id: int) -> Charge:
    """The order's charge, written and committed before anybody hears of it. Any later call returns the same one."""
    order = Order.objects.select_for_update().get(pk=order_id)
    charge = order.charges.order_by("-number").first()
    if charge is None:
        charge = _new_charge(order, number=1)
    if not charge.is_settled:
        check_amount(charge, f"Order {order.number} was changed", order.total_minor, order.currency)
    return charge


@transaction.atomic
def charge_again(order_id: int) -> Charge:
    """Open another charge, with its own key, for a declined order. The caller starts its job in this transaction."""
    order = Order.objects.select_for_update().get(pk=order_id)
    if order.status != Order.Status.DECLINED:
        raise OrderNotChargeable(f"Order {order.number} is {order.status}: only a declined order is charged again.")
    orders.mark_placed(order)
    last = order.charges.aggregate(last=Max("number"))["last"] or 0
    return _new_charge(order, number=last + 1)


def _new_charge(order: Order, number: int) -> Charge:
    if order.status != Order.Status.PLACED:
        raise OrderNotChargeable(f"Order {order.number} is {order.status}, so there is nothing to charge.")
    return Charge.objects.create(order=order, number=number, amount_minor=order.total_minor, currency=order.currency)


def _intent_of(charge: Charge, now: datetime) -> Intent:
    """The charge's intent at Stripe: the one we know of, the one we lost sight of, or a new one."""
    if charge.payment_intent:
        intent = client.retrieve_intent(charge.payment_intent)
    elif charge.must_be_looked_up(now):
        intent = _find(charge) or _create(charge)
    else:
        intent = _create(charge)
    check_amount(charge, "The payment's amount has changed at Stripe", intent.amount_minor, intent.currency)
    _keep_intent_id(charge, intent)
    return intent


def _create(charge: Charge) -> Intent:
    """A new intent. If Stripe refuses to make one, the charge is closed, so that the order can be charged again under
    a new key or cancelled. A refused key is no proof, for its lost answer may have been an intent; the look-up is.
    """
    try:
        return client.create_intent(_purse(charge), metadata=_metadata(charge), key=charge.idempotency_key)
    except StripeRefused as error:
        found = _find(charge)
        if found is None:
            record_decline(charge.pk, "", "refused", str(error), now=timezone.now())
            raise
        return found


def _find(charge: Charge) -> Intent | None:
    customer = charge.order.customer.stripe_customer
    return client.find_intent(metadata=_metadata(charge), customer=customer, since=charge.recorded_at - CLOCK_SKEW)


def _confirmed(charge: Charge, intent: Intent) -> Intent:
    """The intent, paid. Stripe pays an intent once, so its state decides and the key only spares a second look."""
    if intent.status == "requires_confirmation":
        intent = client.confirm_intent(charge.payment_intent, key=f"{charge.idempotency_key}-confirm")
    if intent.status == "succeeded":
        return intent
    if intent.status == "processing":
        raise StripeUnavailable("Stripe is still talking to the bank.")
    if intent.decline_code:
        raise CardDeclined(intent.decline_code, intent.decline_message)
    raise StripeRefused(f"Stripe holds the payment in state {intent.status!r}, which needs the customer.")


def _keep_intent_id(charge: Charge, intent: Intent) -> None:
    """Commit Stripe's id before any money moves: from here on, nobody needs the key to find the intent."""
    Charge.objects.filter(pk=charge.pk, payment_intent="").update(
        payment_intent=intent.id, status=Charge.Status.CREATED
    )
    charge.refresh_from_db(fields=["payment_intent", "status"])


def _note_that_the_outcome_is_unknown(charge: Charge) -> None:
    open_states = (Charge.Status.RECORDED, Charge.Status.CREATED)
    Charge.objects.filter(pk=charge.pk, status__in=open_states).update(status=Charge.Status.UNKNOWN)


def _purse(charge: Charge) -> Purse:
    customer = charge.order.customer
    return Purse(customer.stripe_customer, customer.payment_method, charge.amount_minor, charge.currency)


def _metadata(charge: Charge) -> dict[str, str]:
    return {"order_id": str(charge.order_id), "charge_id": str(charge.pk)}
