"""The people and things that the acts use: the seeded customers, a product, the sandbox."""

from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import User

from apps.catalog.models import Product
from apps.home.act import CannotPlay
from apps.orders.models import Customer, Order
from apps.orders.services import place_order
from apps.sandbox.client import Sandbox

PAYS = "pm_card_visa"
DECLINES = "pm_card_chargeDeclined"
# The sandbox's supplier refuses every sku that begins so.
REFUSED_SKU = "BAD-"


def customer(card: str) -> Customer:
    found = Customer.objects.filter(payment_method=card).first()
    if found is None:
        raise CannotPlay(f"No customer has the card {card}. Run `manage.py seed`.")
    return found


def order_of(buyer: Customer) -> Order:
    """A new order of one product; the caller starts the charge in the same transaction."""
    return place_order(buyer, {products(1)[0].sku: 1})


def products(at_most: int) -> list[Product]:
    """Any products that the supplier takes, and one at least."""
    takeable = Product.objects.filter(active=True).exclude(sku__startswith=REFUSED_SKU)
    found = list(takeable.order_by("?")[:at_most])
    if not found:
        raise CannotPlay("The shop has no products. Run `manage.py seed`.")
    return found


def newest_user(besides: User) -> User:
    """Somebody to write to, whoever presses the button."""
    return User.objects.exclude(pk=besides.pk).exclude(email="").order_by("-pk").first() or besides


def misbehave(party: str, mode: str, **how: Any) -> None:
    """Switch a fault of the sandbox on. It switches itself off, by its `count` or its `seconds`."""
    try:
        Sandbox(settings.SANDBOX_URL).fault(party, mode, **how)
    except requests.RequestException as error:
        raise CannotPlay("The sandbox does not answer, so nothing can be made to fail there.") from error


def charges_at_stripe(order: Order) -> int:
    """How often the order was paid, by the sandbox's own books."""
    try:
        return len(Sandbox(settings.SANDBOX_URL).charges(order.pk))
    except requests.RequestException as error:
        raise CannotPlay("The sandbox does not answer, so its books cannot be read.") from error
