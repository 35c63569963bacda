"""A shop small enough to see: one product, and a customer by the card."""

from django.contrib.auth.models import User

from apps.catalog.models import Product
from apps.orders.models import Customer, Order
from apps.orders.services import place_order

PAYS = "pm_card_visa"
DECLINES = "pm_card_chargeDeclined"
REFUND_FAILS = "pm_card_refundFail"


def a_product(sku: str = "NS-0001", price_minor: int = 1450, currency: str = "eur") -> Product:
    return Product.objects.create(sku=sku, name=f"Product {sku}", price_minor=price_minor, currency=currency, stock=5)


def a_customer(name: str = "ada", card: str = PAYS) -> Customer:
    user = User.objects.create_user(name, f"{name}@nightshift.example", is_staff=True)
    return Customer.objects.create(user=user, stripe_customer=f"cus_{name}", payment_method=card)


def an_order(card: str = PAYS) -> Order:
    """Two of one product: 29.00 EUR."""
    return place_order(a_customer(card=card), {a_product().sku: 2})
