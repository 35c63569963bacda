"""Products, and what the supplier tells us about them."""

from django.db import models
from django.db.models import Q

from apps.catalog.money import formatted

# The supplier's are a few digits.
MAX_CURSOR = 200


class Product(models.Model):
    sku = models.CharField(max_length=40, unique=True)
    name = models.CharField(max_length=200)
    price_minor = models.PositiveBigIntegerField(help_text="In minor units: 1250 is 12.50.")
    currency = models.CharField(
        max_length=3,
        default="eur",
        help_text="ISO 4217, in lower case as Stripe writes it.",
    )
    stock = models.PositiveIntegerField(default=0, help_text="What the supplier said last. Orders do not reserve it.")
    active = models.BooleanField(default=True)
    supplier_version = models.BigIntegerField(default=0, help_text="The newest of the supplier's changes in this row.")
    synced_at = models.DateTimeField(null=True, blank=True, help_text="When the supplier last took this product.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["sku"]
        constraints = [
            models.CheckConstraint(condition=Q(price_minor__gt=0), name="product_price_is_positive"),
            models.CheckConstraint(
                condition=Q(currency__regex=r"^[a-z]{3}$"),
                name="product_currency_is_iso_4217",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.sku})"

    @property
    def price(self) -> str:
        return formatted(self.price_minor, self.currency)


class SupplierCursor(models.Model):
    """How far we have read the supplier's list of changes. Saved together with the changes that it has passed."""

    feed = models.CharField(max_length=40, primary_key=True)
    value = models.CharField(max_length=MAX_CURSOR, blank=True, default="")
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.feed} at {self.value or 'the beginning'}"


class SupplierChange(models.Model):
    """One change as the supplier reported it, not checked: a job of its own does that, so a bad one stops no other."""

    sku = models.TextField()
    version = models.BigIntegerField()
    fields = models.JSONField(
        default=dict,
        help_text="What changed: name, price_minor, currency, stock, active.",
    )
    received_at = models.DateTimeField(auto_now_add=True)
    applied_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.sku} version {self.version}"
