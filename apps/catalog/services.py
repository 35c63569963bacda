"""What we tell the supplier about a product, and what we ask about it."""

from django.utils import timezone

from apps.catalog import client
from apps.catalog.models import Product


def push_product(product_id: int) -> None:
    """Send the product as it is now; a later push sends the later state, so the order of pushes does not matter.

    Raises SupplierUnavailable or SupplierBusy when a later try may succeed, SupplierRefused when it will not.
    """
    product = Product.objects.get(pk=product_id)
    client.put_product(
        product.sku,
        {
            "name": product.name,
            "price_minor": product.price_minor,
            "currency": product.currency,
            "active": product.active,
        },
    )
    Product.objects.filter(pk=product_id).update(synced_at=timezone.now())


def refresh_stock(product_id: int) -> int:
    """Ask how many the supplier has, and keep the answer."""
    product = Product.objects.get(pk=product_id)
    stock = client.fetch_stock(product.sku)
    Product.objects.filter(pk=product_id).update(stock=stock)
    return stock
