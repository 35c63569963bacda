"""Stripe's webhooks: what Stripe tells us by itself, perhaps before our own call has returned.

An event may come twice, late, and out of order. It is kept by its id in the transaction that acts on it, so a second
delivery does nothing, and a delivery that failed half-way comes again to a clean slate.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import stripe
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.payments.client import Intent
from apps.payments.models import Charge, WebhookEvent
from apps.payments.settlement import PaymentConflict, record_decline, record_refund, record_success

# An older signature may be a recording that somebody plays back.
SIGNATURE_TOLERANCE_SECONDS = 300


class WebhooksNotConfigured(Exception):
    """Without the endpoint's secret anybody could report a payment."""


class BadWebhook(Exception):
    """Not a message that Stripe signed for us, or not one that can be read."""


def verified_event(body: bytes, signature: str) -> Mapping[str, Any]:
    """The event in a request's raw body. Nothing in the body is believed before its signature is."""
    if not settings.STRIPE_WEBHOOK_SECRET:
        raise WebhooksNotConfigured("STRIPE_WEBHOOK_SECRET is not set, so no webhook is believed.")
    try:
        event = stripe.Webhook.construct_event(
            body, signature, settings.STRIPE_WEBHOOK_SECRET, tolerance=SIGNATURE_TOLERANCE_SECONDS
        ).to_dict()
        made_at = datetime.fromtimestamp(event["created"], UTC)
        return {"id": event["id"], "type": event["type"], "made_at": made_at, "about": dict(event["data"]["object"])}
    except stripe.SignatureVerificationError as error:
        raise BadWebhook("The signature does not fit this message.") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError) as error:
        # The SDK builds its objects from whatever JSON there is, and fails in as many ways.
        raise BadWebhook("This is not a Stripe event.") from error


@transaction.atomic
def receive(event: Mapping[str, Any]) -> WebhookEvent:
    """Act on an event, once. A conflict between Stripe and our books is written down for a person, not sent back:
    Stripe would only repeat the event for three days.
    """
    about = event["about"]
    received, is_new = WebhookEvent.objects.get_or_create(
        event_id=event["id"],
        defaults={
            "type": event["type"],
            "payment_intent": _intent_id(about),
            "created_at": event["made_at"],
        },
    )
    if is_new:
        received.outcome = _act(event["type"], about)[:500]
        received.save(update_fields=["outcome"])
    return received


def _act(event_type: str, about: Mapping[str, Any]) -> str:
    action = ACTIONS.get(event_type)
    if action is None:
        return "Nothing to do."
    charge = _charge_of(about)
    if charge is None:
        return "No charge of this shop."
    try:
        with transaction.atomic():
            return action(charge, about)
    except PaymentConflict as conflict:
        return str(conflict)


def _succeeded(charge: Charge, about: Mapping[str, Any]) -> str:
    intent = Intent(about["id"], about["status"], about["amount"], about["currency"])
    charge = record_success(charge.pk, intent, now=timezone.now())
    return f"The charge is {charge.status}."


def _failed(charge: Charge, about: Mapping[str, Any]) -> str:
    error = about.get("last_payment_error") or {}
    code = error.get("decline_code") or error.get("code") or "declined"
    charge = record_decline(charge.pk, about["id"], code, error.get("message") or "", now=timezone.now())
    return f"The charge is {charge.status}."


def _refunded(charge: Charge, about: Mapping[str, Any]) -> str:
    if not about.get("refunded"):
        return "Only a part was refunded; the charge stands."
    if charge.is_open:
        # Only what was paid is given back, so the event of the payment is late or lost.
        paid = Intent(_intent_id(about), "succeeded", about["amount"], about["currency"])
        record_success(charge.pk, paid, now=timezone.now())
    refunds = (about.get("refunds") or {}).get("data") or [{}]
    refund = record_refund(charge.pk, refunds[0].get("id", ""), now=timezone.now())
    return f"The payment was given back. The charge is {refund.charge.status}."


def _refund_failed(charge: Charge, about: Mapping[str, Any]) -> str:
    """The books stay as they are: a charge has one refund, and the money now goes back by another way than the card."""
    reason = about.get("failure_reason") or "no reason given"
    raise PaymentConflict(
        f"Stripe's refund {about['id']} of {charge} has failed ({reason}): the money has not reached the customer."
    )


ACTIONS: dict[str, Callable[[Charge, Mapping[str, Any]], str]] = {
    "payment_intent.succeeded": _succeeded,
    "payment_intent.payment_failed": _failed,
    "charge.refunded": _refunded,
    "refund.failed": _refund_failed,
}


def _charge_of(about: Mapping[str, Any]) -> Charge | None:
    """By the intent's id; or, if the event came before we could keep that id, by what we wrote on the intent."""
    intent_id = _intent_id(about)
    # A payment made without an intent has none; and our charges have none until Stripe has made it.
    charge = Charge.objects.filter(payment_intent=intent_id).first() if intent_id else None
    metadata = about.get("metadata") or {}
    charge_id, order_id = (str(metadata.get(name, "")) for name in ("charge_id", "order_id"))
    # Another shop on the same Stripe account may number its orders in its own way.
    if charge or not (charge_id.isdecimal() and order_id.isdecimal()):
        return charge
    return Charge.objects.filter(pk=charge_id, order_id=order_id, payment_intent="", historic=False).first()


def _intent_id(about: Mapping[str, Any]) -> str:
    """Of a payment intent itself, or of a charge that belongs to one."""
    return str((about.get("id") if about.get("object") == "payment_intent" else about.get("payment_intent")) or "")
