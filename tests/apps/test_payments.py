"""Charged once, whatever happens: against a Stripe that counts, over real HTTP."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from apps.orders.models import Order
from apps.payments import client, services
from apps.payments.client import (
    CardDeclined,
    StripeBusy,
    StripeKeySpent,
    StripeMisconfigured,
    StripeRefused,
    StripeUnavailable,
)
from apps.payments.models import Charge
from apps.payments.services import OrderNotChargeable, charge_again, charge_order
from apps.payments.settlement import AmountMismatch
from apps.sandbox.client import Sandbox
from tests.shop import DECLINES, PAYS, an_order

pytestmark = pytest.mark.django_db


class Killed(BaseException):
    """The process ends here."""


def charge_in_the_end(order: Order, tries: int = 5) -> Charge:
    """As the task does it, without the waiting."""
    for _ in range(tries - 1):
        try:
            return charge_order(order.pk)
        except StripeUnavailable:
            continue
    return charge_order(order.pk)


def asked(sandbox: Sandbox, what: str) -> int:
    return int(sandbox.counts()["asked"].get("stripe", {}).get(what, 0))


def assert_charged_once(sandbox: Sandbox, order: Order) -> None:
    """One charge, and not even a second intent that nobody has confirmed yet."""
    assert len(sandbox.charges(order.pk)) == 1
    assert len(client._stripe().v1.payment_intents.list({"customer": "cus_ada"}).data) == 1


def charge_and_be_killed_before(step: str, order: Order) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, step, killed)
        with pytest.raises(Killed):
            charge_order(order.pk)


def test_a_charge_moves_the_orders_amount_in_its_currency(sandbox: Sandbox) -> None:
    order = an_order()
    charge = charge_order(order.pk)
    order.refresh_from_db()
    [taken] = sandbox.charges(order.pk)
    assert (taken["amount"], taken["currency"]) == (2900, "eur")
    assert (charge.status, order.status) == ("succeeded", "paid")
    assert order.paid_at == charge.settled_at


def test_a_paid_order_is_not_charged_again_and_stripe_is_not_even_asked(sandbox: Sandbox) -> None:
    order = an_order()
    first = charge_order(order.pk)
    before = sandbox.counts()["asked"]
    assert charge_order(order.pk) == first
    assert sandbox.counts()["asked"] == before


@pytest.mark.django_db(transaction=True)
def test_twenty_deliveries_at_once_give_one_charge(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "slow", latency_ms=30)

    def deliver() -> int:
        try:
            return charge_in_the_end(order, tries=100).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as workers:
        charges = {future.result() for future in [workers.submit(deliver) for _ in range(20)]}
    assert len(charges) == 1
    assert_charged_once(sandbox, order)


@pytest.mark.parametrize("step", ["_keep_intent_id", "_confirmed", "record_success"])
def test_a_worker_killed_between_two_steps_leaves_one_charge_for_the_next(sandbox: Sandbox, step: str) -> None:
    order = an_order()
    charge_and_be_killed_before(step, order)
    assert charge_order(order.pk).is_settled
    assert_charged_once(sandbox, order)
    assert asked(sandbox, "payment_intents.confirm") == 1


@pytest.mark.parametrize("mode", ["down", "error", "error_after", "cut"])
@pytest.mark.parametrize("call", ["/payment_intents", "/confirm"])
def test_an_answer_lost_at_any_call_leaves_one_charge_after_the_retries(sandbox: Sandbox, mode: str, call: str) -> None:
    order = an_order()
    sandbox.fault("stripe", mode, count=1, matching=call)
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    assert Charge.objects.get(order=order).status == "unknown"
    assert charge_in_the_end(order).is_settled
    assert_charged_once(sandbox, order)


def test_a_stripe_that_takes_too_long_is_given_up_and_looked_at_later(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = an_order()
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", (1, 0.2))
    client._client.cache_clear()
    sandbox.fault("stripe", "hang", count=1, matching="/confirm", hold=5)
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    sandbox.clear()
    client._client.cache_clear()
    assert charge_in_the_end(order, tries=100).is_settled
    assert_charged_once(sandbox, order)


def test_an_intent_whose_key_stripe_has_forgotten_is_looked_up_and_not_made_again(
    sandbox: Sandbox,
) -> None:
    order = an_order()
    charge_and_be_killed_before("_keep_intent_id", order)
    sandbox.expire_idempotency_keys()
    Charge.objects.update(recorded_at=timezone.now() - timedelta(hours=25))
    assert charge_order(order.pk).is_settled
    assert asked(sandbox, "payment_intents.create") == 1


def test_a_payment_whose_key_stripe_has_forgotten_is_found_paid(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "cut", count=1, matching="/confirm")
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    sandbox.expire_idempotency_keys()
    Charge.objects.update(recorded_at=timezone.now() - timedelta(days=3))
    assert charge_order(order.pk).is_settled
    assert_charged_once(sandbox, order)


def test_a_key_that_only_repeats_a_failure_is_renewed_after_a_look_at_what_stripe_has(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "error_after", count=1, matching="/payment_intents")
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    with pytest.raises(StripeKeySpent):
        charge_order(order.pk)
    charge = charge_order(order.pk)
    assert (charge.is_settled, charge.spent_keys) == (True, 1)
    assert asked(sandbox, "payment_intents.create") == 2


def test_a_declined_card_closes_the_order_and_the_bank_is_not_asked_again(sandbox: Sandbox) -> None:
    order = an_order(card=DECLINES)
    for _ in range(3):
        with pytest.raises(CardDeclined, match="generic_decline"):
            charge_order(order.pk)
    order.refresh_from_db()
    assert order.status == "declined"
    assert asked(sandbox, "payment_intents.confirm") == 1


def test_a_decline_whose_answer_was_lost_is_still_a_decline(sandbox: Sandbox) -> None:
    order = an_order(card=DECLINES)
    sandbox.fault("stripe", "cut", count=1, matching="/confirm")
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    with pytest.raises(CardDeclined):
        charge_order(order.pk)
    assert asked(sandbox, "payment_intents.confirm") == 1


def test_a_declined_order_is_charged_again_under_a_new_key(sandbox: Sandbox) -> None:
    order = an_order(card=DECLINES)
    with pytest.raises(CardDeclined):
        charge_order(order.pk)
    order.customer.payment_method = PAYS
    order.customer.save()
    assert charge_again(order.pk).number == 2
    assert charge_order(order.pk).number == 2
    order.refresh_from_db()
    assert (order.status, len(sandbox.charges(order.pk))) == ("paid", 1)


def test_only_a_declined_order_is_charged_again(sandbox: Sandbox) -> None:
    order = an_order()
    charge_order(order.pk)
    with pytest.raises(OrderNotChargeable, match="only a declined order"):
        charge_again(order.pk)


def test_a_cancelled_order_is_not_charged(sandbox: Sandbox) -> None:
    order = an_order()
    Order.objects.update(status="cancelled")
    with pytest.raises(OrderNotChargeable, match="is cancelled, so there is nothing to charge"):
        charge_order(order.pk)
    assert asked(sandbox, "payment_intents.create") == 0


@pytest.mark.parametrize("changed", [{"total_minor": 2901}, {"currency": "usd"}])
def test_an_order_that_was_changed_after_its_charge_was_recorded_is_not_charged(
    sandbox: Sandbox, changed: dict[str, Any]
) -> None:
    order = an_order()
    services.record_charge(order.pk)
    Order.objects.update(**changed)
    with pytest.raises(AmountMismatch, match=r"29\.00 EUR"):
        charge_order(order.pk)
    assert asked(sandbox, "payment_intents.create") == 0


def test_a_rate_limit_is_a_pause_of_the_length_that_stripe_names(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "rate_limit", count=1, retry_after=17)
    with pytest.raises(StripeBusy) as pause:
        charge_order(order.pk)
    assert pause.value.seconds == 17
    assert charge_order(order.pk).is_settled


def test_a_wrong_api_key_is_permanent(sandbox: Sandbox, settings: Settings) -> None:
    settings.STRIPE_API_KEY = "sk_test_of_somebody_else"
    with pytest.raises(StripeMisconfigured, match="does not accept"):
        charge_order(an_order().pk)


def test_a_card_that_stripe_does_not_know_is_permanent(sandbox: Sandbox) -> None:
    with pytest.raises(StripeRefused, match="No such PaymentMethod"):
        charge_order(an_order(card="pm_of_nobody").pk)


def test_an_order_whose_payment_stripe_refuses_to_create_can_be_charged_again_or_cancelled(sandbox: Sandbox) -> None:
    order = an_order(card="pm_of_nobody")
    with pytest.raises(StripeRefused):
        charge_order(order.pk)
    order.refresh_from_db()
    charge = order.charges.get()
    assert (charge.status, charge.decline_code, charge.payment_intent) == ("declined", "refused", "")
    assert "No such PaymentMethod" in charge.decline_message
    assert order.status == "declined"
    order.customer.payment_method = PAYS
    order.customer.save()
    charge_again(order.pk)
    assert charge_order(order.pk).number == 2
    assert_charged_once(sandbox, order)


def test_a_card_that_changed_while_stripes_answer_was_lost_leaves_one_charge(sandbox: Sandbox) -> None:
    """Stripe refuses the key for another card: that is no proof that there is no intent."""
    order = an_order()
    sandbox.fault("stripe", "cut", count=1, matching="/payment_intents")
    with pytest.raises(StripeUnavailable):
        charge_order(order.pk)
    order.customer.payment_method = "pm_card_mastercard"
    order.customer.save()
    assert charge_order(order.pk).is_settled
    assert_charged_once(sandbox, order)


@pytest.mark.parametrize("error", [CardDeclined("lost_card", "Your card was declined."), StripeBusy(3, "later")])
def test_an_error_survives_the_way_between_two_processes(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.django_db(transaction=True)
def test_stripe_is_never_called_inside_a_transaction(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    in_transaction = []
    ask: Callable[[], Any] = client._stripe

    def watched() -> Any:
        in_transaction.append(connection.in_atomic_block)
        return ask()

    monkeypatch.setattr(client, "_stripe", watched)
    charge_order(an_order().pk)
    assert in_transaction == [False, False]
