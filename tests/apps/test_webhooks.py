"""What Stripe tells us by itself: believed by its signature, acted on once, in any order."""

import json
import time
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from apps.orders.models import Order
from apps.orders.services import place_order
from apps.payments import webhooks
from apps.payments.models import Charge, WebhookEvent
from apps.payments.services import record_charge
from apps.payments.views import MAX_BODY_BYTES
from apps.sandbox.webhooks import signed
from tests.shop import an_order

pytestmark = pytest.mark.django_db


@pytest.fixture
def charge() -> Charge:
    return record_charge(an_order().pk)


def event(kind: str, charge: Charge, event_id: str = "evt_1", **about: Any) -> dict[str, Any]:
    intent = {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": charge.amount_minor,
        "currency": charge.currency,
        "metadata": {"order_id": str(charge.order_id), "charge_id": str(charge.pk)},
    }
    return {
        "id": event_id,
        "object": "event",
        "type": kind,
        "created": 1_700_000_000,
        "data": {"object": intent | about},
    }


def declined(charge: Charge, event_id: str) -> dict[str, Any]:
    error = {"code": "card_declined", "decline_code": "lost_card", "message": "Your card was declined."}
    return event(
        "payment_intent.payment_failed", charge, event_id, status="requires_payment_method", last_payment_error=error
    )


def refunded(charge: Charge, event_id: str) -> dict[str, Any]:
    about = {"id": "ch_1", "object": "charge", "payment_intent": "pi_1", "refunded": True, "status": "succeeded"}
    return event("charge.refunded", charge, event_id, **about)


def deliver(message: Any, *, secret: str | None = None, age: int = 0) -> Any:
    """As Stripe does it: from outside, without a cookie, to a server that checks CSRF."""
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    header = signed(payload, secret or django_settings.STRIPE_WEBHOOK_SECRET, int(time.time()) - age)
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    return client.post(
        reverse("stripe-webhook"), payload, content_type="application/json", headers={"Stripe-Signature": header}
    )


def test_a_success_pays_the_order_even_before_our_own_call_has_returned(charge: Charge) -> None:
    assert deliver(event("payment_intent.succeeded", charge)).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.payment_intent, charge.order.status) == ("succeeded", "pi_1", "paid")


def test_the_same_event_twice_acts_once(charge: Charge, monkeypatch: pytest.MonkeyPatch) -> None:
    message = event("payment_intent.succeeded", charge)
    assert deliver(message).status_code == 200
    monkeypatch.setitem(webhooks.ACTIONS, "payment_intent.succeeded", lambda *_: pytest.fail("acted twice"))
    assert deliver(message).status_code == 200
    assert WebhookEvent.objects.count() == 1


def test_an_event_that_failed_half_way_is_taken_when_it_comes_again(
    charge: Charge, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = event("payment_intent.succeeded", charge)
    with monkeypatch.context() as broken:
        broken.setattr(webhooks, "record_success", lambda *_, **__: 1 / 0)
        assert deliver(message).status_code == 500
    assert not WebhookEvent.objects.exists()
    assert deliver(message).status_code == 200
    charge.refresh_from_db()
    assert charge.status == "succeeded"


def test_a_late_failure_does_not_undo_a_success(charge: Charge) -> None:
    deliver(event("payment_intent.succeeded", charge))
    assert deliver(declined(charge, "evt_2")).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.order.status) == ("succeeded", "paid")


def test_a_decline_closes_the_charge_with_its_reason(charge: Charge) -> None:
    deliver(declined(charge, "evt_1"))
    charge.refresh_from_db()
    assert (charge.status, charge.decline_code, charge.order.status) == ("declined", "lost_card", "declined")


def test_a_refund_made_in_stripes_dashboard_arrives_here(charge: Charge) -> None:
    deliver(event("payment_intent.succeeded", charge))
    assert deliver(refunded(charge, "evt_2")).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.order.status, charge.refund.status) == ("refunded", "refunded", "succeeded")


@pytest.mark.parametrize("wrong", [{"amount": 1}, {"currency": "usd"}])
def test_another_amount_pays_nothing_and_is_written_down_for_a_person(charge: Charge, wrong: dict[str, Any]) -> None:
    assert deliver(event("payment_intent.succeeded", charge, **wrong)).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.order.status) == ("recorded", "placed")
    assert "29.00 EUR" in WebhookEvent.objects.get().outcome


def test_a_payment_of_an_order_that_another_charge_has_taken_over_is_written_down_for_a_person(charge: Charge) -> None:
    deliver(declined(charge, "evt_1"))
    charge.order.charges.create(number=2, amount_minor=charge.amount_minor, currency=charge.currency)
    assert deliver(event("payment_intent.succeeded", charge, "evt_2")).status_code == 200
    assert "One of the two payments has to be given back" in WebhookEvent.objects.get(event_id="evt_2").outcome
    assert deliver(refunded(charge, "evt_3")).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.refund.status) == ("declined", "succeeded")


@pytest.mark.parametrize("second", ["recorded", "declined"])
def test_a_payment_that_another_charge_has_taken_over_is_given_back_without_a_change_to_the_order(
    charge: Charge, second: str
) -> None:
    deliver(declined(charge, "evt_1"))
    charge.order.charges.create(number=2, amount_minor=charge.amount_minor, currency=charge.currency, status=second)
    before = Order.objects.values("status", "paid_at").get(pk=charge.order_id)
    for _ in range(2):
        assert deliver(refunded(charge, "evt_2")).status_code == 200
    assert deliver(event("payment_intent.succeeded", charge, "evt_3")).status_code == 200
    charge.refresh_from_db()
    assert (charge.status, charge.refund.status) == ("declined", "succeeded")
    assert Order.objects.values("status", "paid_at").get(pk=charge.order_id) == before


def test_a_refund_that_comes_before_the_payment_it_returns_ends_refunded(charge: Charge) -> None:
    assert deliver(refunded(charge, "evt_1")).status_code == 200
    assert deliver(event("payment_intent.succeeded", charge, "evt_2")).status_code == 200
    outcome = WebhookEvent.objects.get(event_id="evt_1").outcome
    assert outcome == "The payment was given back. The charge is refunded."
    charge.refresh_from_db()
    assert (charge.status, charge.payment_intent, charge.refund.status) == ("refunded", "pi_1", "succeeded")
    assert charge.order.status == "refunded"
    assert charge.order.paid_at


def test_a_refund_that_fails_later_is_written_down_for_a_person(charge: Charge) -> None:
    deliver(event("payment_intent.succeeded", charge, "evt_1"))
    deliver(refunded(charge, "evt_2"))
    about = {"id": "re_1", "object": "refund", "payment_intent": "pi_1", "failure_reason": "lost_or_stolen_card"}
    assert deliver(event("refund.failed", charge, "evt_3", **about, status="failed")).status_code == 200
    outcome = WebhookEvent.objects.get(event_id="evt_3").outcome
    assert "refund re_1" in outcome
    assert "has failed (lost_or_stolen_card)" in outcome


def test_an_unknown_kind_of_event_is_taken_and_does_nothing(charge: Charge) -> None:
    assert deliver(event("customer.subscription.deleted", charge)).status_code == 200
    assert WebhookEvent.objects.get().outcome == "Nothing to do."


@pytest.mark.parametrize(
    "metadata", [{}, {"order_id": "A-17", "charge_id": "x"}, {"order_id": "9" * 30, "charge_id": "9" * 30}]
)
def test_a_payment_of_another_shop_is_taken_and_does_nothing(charge: Charge, metadata: dict[str, str]) -> None:
    assert deliver(event("payment_intent.succeeded", charge, metadata=metadata)).status_code == 200
    assert WebhookEvent.objects.get().outcome == "No charge of this shop."


def test_an_event_about_a_payment_without_an_intent_concerns_no_charge_of_ours(charge: Charge) -> None:
    """Such a payment was made by the old API or by hand. Our own charges have no intent before Stripe made one."""
    other = Charge.objects.create(
        order=place_order(charge.order.customer, {"NS-0001": 1}),
        number=1,
        amount_minor=1450,
        currency="eur",
        status="succeeded",
        historic=True,
    )
    about: dict[str, Any] = {"id": "ch_x", "object": "charge", "payment_intent": None, "refunded": True, "metadata": {}}
    response = deliver(event("charge.refunded", charge, **about))
    assert (response.status_code, response.content.decode().strip()) == (200, "No charge of this shop.")
    charge.refresh_from_db()
    other.refresh_from_db()
    assert (charge.status, other.status, charge.order.status) == ("recorded", "succeeded", "placed")


def test_a_wrong_signature_is_refused(charge: Charge) -> None:
    response = deliver(event("payment_intent.succeeded", charge), secret="whsec_guessed")
    assert response.status_code == 400
    assert not WebhookEvent.objects.exists()


def test_a_recording_that_is_played_back_later_is_refused(charge: Charge) -> None:
    assert deliver(event("payment_intent.succeeded", charge), age=301).status_code == 400
    assert deliver(event("payment_intent.succeeded", charge), age=290).status_code == 200


def test_without_a_secret_nothing_is_believed(charge: Charge, settings: Settings) -> None:
    message = event("payment_intent.succeeded", charge)
    settings.STRIPE_WEBHOOK_SECRET = ""
    assert deliver(message, secret="x").status_code == 503
    charge.refresh_from_db()
    assert charge.status == "recorded"


@pytest.mark.parametrize("header", ["", "nonsense", "t=,v1=", "t=abc,v1=abc", "v1=00"])
def test_a_header_that_is_no_signature_is_refused(client: Client, header: str) -> None:
    response = client.post(
        reverse("stripe-webhook"), b"{}", content_type="application/json", headers={"Stripe-Signature": header}
    )
    assert response.status_code == 400


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"17", b"not json", b"{}", b'{"id": "evt_1"}'])
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    assert deliver(body).status_code == 400


@pytest.mark.parametrize(
    "wrong", [{"created": "yesterday"}, {"created": 10**30}, {"data": {"object": "pi_1"}}, {"data": 1}]
)
def test_a_signed_body_that_makes_no_sense_is_refused(charge: Charge, wrong: dict[str, Any]) -> None:
    assert deliver(event("payment_intent.succeeded", charge) | wrong).status_code == 400
    assert not WebhookEvent.objects.exists()


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 3_000_000])
def test_a_body_longer_than_any_event_is_refused_before_its_signature_is_checked(length: int) -> None:
    assert deliver(b" " * length).status_code == 413


def test_a_webhook_is_posted(client: Client) -> None:
    assert client.get(reverse("stripe-webhook")).status_code == 405
