"""Given back once, and only what was taken."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.payments.client import StripeKeySpent, StripeRefused, StripeUnavailable, create_refund
from apps.payments.models import Charge, Refund
from apps.payments.refunds import NothingToRefund, refund_charge
from apps.payments.services import charge_order, record_charge
from apps.sandbox.client import Sandbox
from tests.shop import REFUND_FAILS, an_order

pytestmark = pytest.mark.django_db


@pytest.fixture
def charge(sandbox: Sandbox) -> Charge:
    return charge_order(an_order().pk)


def refunded(sandbox: Sandbox, charge: Charge) -> int:
    [taken] = sandbox.charges(charge.order_id)
    return int(taken["amount_refunded"])


def test_a_refund_returns_the_whole_amount_and_closes_the_order(sandbox: Sandbox, charge: Charge) -> None:
    refund = refund_charge(charge.pk)
    charge.refresh_from_db()
    assert refunded(sandbox, charge) == refund.amount_minor == 2900
    assert (refund.status, charge.status, charge.order.status) == ("succeeded", "refunded", "refunded")


def test_a_second_refund_is_the_first_and_stripe_is_not_asked(sandbox: Sandbox, charge: Charge) -> None:
    first = refund_charge(charge.pk)
    before = sandbox.counts()["asked"]
    assert refund_charge(charge.pk) == first
    assert sandbox.counts()["asked"] == before


def test_a_refund_whose_answer_was_lost_is_made_once(sandbox: Sandbox, charge: Charge) -> None:
    sandbox.fault("stripe", "cut", count=1)
    with pytest.raises(StripeUnavailable):
        refund_charge(charge.pk)
    assert Refund.objects.get().status == "unknown"
    assert refund_charge(charge.pk).stripe_refund
    assert refunded(sandbox, charge) == 2900


def test_a_refund_under_a_key_that_repeats_a_failure_is_looked_up(sandbox: Sandbox, charge: Charge) -> None:
    sandbox.fault("stripe", "error_after", count=1)
    with pytest.raises(StripeUnavailable):
        refund_charge(charge.pk)
    with pytest.raises(StripeKeySpent):
        refund_charge(charge.pk)
    assert refund_charge(charge.pk).status == "succeeded"


def test_a_refund_whose_key_stripe_has_forgotten_is_looked_up(sandbox: Sandbox, charge: Charge) -> None:
    sandbox.fault("stripe", "cut", count=1)
    with pytest.raises(StripeUnavailable):
        refund_charge(charge.pk)
    sandbox.expire_idempotency_keys()
    Refund.objects.update(recorded_at=timezone.now() - timedelta(days=2))
    assert refund_charge(charge.pk).status == "succeeded"
    assert sandbox.counts()["asked"]["stripe"]["refunds.create"] == 1


def test_a_refund_made_by_hand_at_stripe_counts(sandbox: Sandbox, charge: Charge) -> None:
    sandbox.fault("stripe", "cut", count=1)
    with pytest.raises(StripeUnavailable):
        refund_charge(charge.pk)
    sandbox.expire_idempotency_keys()  # the same request is now a new one, which Stripe refuses: it is done
    assert refund_charge(charge.pk).status == "succeeded"


def test_a_part_given_back_by_hand_is_not_taken_for_the_whole(sandbox: Sandbox, charge: Charge) -> None:
    create_refund(charge.payment_intent, amount_minor=1000, metadata={}, key="by-hand")
    with pytest.raises(StripeRefused, match="greater than unrefunded amount"):
        refund_charge(charge.pk)
    charge.refresh_from_db()
    assert (charge.status, charge.order.status, refunded(sandbox, charge)) == ("succeeded", "paid", 1000)


def test_parts_given_back_by_hand_that_make_the_whole_count(sandbox: Sandbox, charge: Charge) -> None:
    for amount in (1000, 1900):
        create_refund(charge.payment_intent, amount_minor=amount, metadata={}, key=f"by-hand-{amount}")
    assert refund_charge(charge.pk).status == "succeeded"
    assert refunded(sandbox, charge) == 2900


def test_a_refund_that_fails_at_the_bank_is_not_booked_as_returned(sandbox: Sandbox) -> None:
    charge = charge_order(an_order(card=REFUND_FAILS).pk)
    with pytest.raises(StripeRefused, match=r"refund re_\w+ has failed"):
        refund_charge(charge.pk)
    charge.refresh_from_db()
    assert (charge.status, charge.order.status, charge.refund.status) == ("succeeded", "paid", "recorded")
    assert sandbox.events()[0]["type"] == "refund.failed"


def test_what_was_never_taken_is_not_returned(sandbox: Sandbox) -> None:
    with pytest.raises(NothingToRefund, match="no money was taken"):
        refund_charge(record_charge(an_order().pk).pk)
    assert "refunds.create" not in sandbox.counts()["asked"].get("stripe", {})


def test_an_imported_charge_is_not_returned_here(charge: Charge) -> None:
    Charge.objects.update(historic=True)
    with pytest.raises(NothingToRefund, match="was imported"):
        refund_charge(charge.pk)
