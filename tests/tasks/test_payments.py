"""The policy around a charge: what is tried again, and what is not."""

from unittest.mock import Mock

import pytest
from django.core.exceptions import ObjectDoesNotExist

import tasks
from apps.payments import services
from apps.payments.client import CardDeclined, StripeUnavailable
from apps.payments.models import Charge
from apps.payments.services import charge_order
from apps.sandbox.client import Sandbox
from tests.shop import DECLINES, an_order

pytestmark = pytest.mark.django_db


def asked(sandbox: Sandbox, what: str) -> int:
    return int(sandbox.counts()["asked"].get("stripe", {}).get(what, 0))


def test_a_charge_that_meets_an_outage_is_tried_again_until_it_succeeds(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "error", count=3)
    result = tasks.charge_customer.apply(kwargs={"order_id": order.pk})
    assert result.state == "SUCCESS"
    assert len(sandbox.charges(order.pk)) == 1


def test_a_charge_gives_up_when_stripe_stays_away_and_goes_on_from_there_when_it_is_replayed(sandbox: Sandbox) -> None:
    order = an_order()
    sandbox.fault("stripe", "cut", matching="/confirm")
    sandbox.fault("stripe", "error", matching="/payment_intents/pi_")
    result = tasks.charge_customer.apply(kwargs={"order_id": order.pk})
    assert isinstance(result.result, StripeUnavailable)
    sandbox.clear()
    assert tasks.charge_customer.apply(kwargs={"order_id": order.pk}).state == "SUCCESS"
    assert len(sandbox.charges(order.pk)) == 1


def test_a_declined_card_is_permanent_without_a_retry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    charge = Mock(side_effect=charge_order)
    monkeypatch.setattr(services, "charge_order", charge)
    result = tasks.charge_customer.apply(kwargs={"order_id": an_order(card=DECLINES).pk})
    assert isinstance(result.result, CardDeclined)
    assert str(result.result) == "The card was declined (generic_decline): Your card was declined."
    assert charge.call_count == 1


@pytest.mark.parametrize("order_id", [0, -1, 10**30, None])
def test_an_order_that_does_not_exist_is_permanent(sandbox: Sandbox, order_id: int | None) -> None:
    result = tasks.charge_customer.apply(kwargs={"order_id": order_id})
    assert isinstance(result.result, ObjectDoesNotExist)


@pytest.mark.parametrize("order_id", ["one", [1], {"id": 1}, 1.5j])
def test_an_id_of_a_wrong_type_is_permanent(order_id: object) -> None:
    assert isinstance(tasks.charge_customer.apply(kwargs={"order_id": order_id}).result, (TypeError, ValueError))


def test_a_charge_delivered_twice_has_the_effects_of_one(sandbox: Sandbox) -> None:
    order = an_order()
    for _ in range(2):
        assert tasks.charge_customer.apply(kwargs={"order_id": order.pk}).state == "SUCCESS"
    assert (Charge.objects.count(), len(sandbox.charges(order.pk))) == (1, 1)


def test_a_refund_delivered_twice_has_the_effects_of_one(sandbox: Sandbox) -> None:
    charge = charge_order(an_order().pk)
    for _ in range(2):
        assert tasks.refund_charge.apply(kwargs={"charge_id": charge.pk}).state == "SUCCESS"
    assert asked(sandbox, "refunds.create") == 1
