"""Customers and what they ordered. What they paid is in `apps.payments`."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.catalog.models import Product
from apps.catalog.money import formatted


class Customer(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="customer")
    stripe_customer = models.CharField(max_length=64, blank=True, default="")
    payment_method = models.CharField(max_length=64, help_text="Stripe's id of the card: pm_…")

    class Meta:
        ordering = ["user__username"]

    def __str__(self) -> str:
        return self.user.get_username()


class Order(models.Model):
    class Status(models.TextChoices):
        PLACED = "placed"
        PAID = "paid"
        DECLINED = "declined"
        REFUNDED = "refunded"
        CANCELLED = "cancelled"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    number = models.CharField(max_length=20, unique=True)
    currency = models.CharField(max_length=3)
    total_minor = models.PositiveBigIntegerField(help_text="In minor units: 1250 is 12.50.")
    status = models.CharField(max_length=10, choices=Status, default=Status.PLACED)
    placed_at = models.DateTimeField(default=timezone.now, db_index=True)
    paid_at = models.DateTimeField(null=True, blank=True, db_index=True)
    request_key = models.CharField(
        max_length=64,
        unique=True,
        null=True,
        blank=True,
        help_text="Of the form: posted twice, it is one order.",
    )
    # Not a foreign key: the order outlives the ledger's row, which retention deletes.
    charge_job = models.UUIDField(null=True, blank=True)

    class Meta:
        ordering = ["-placed_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(total_minor__gt=0), name="order_total_is_positive"),
            models.CheckConstraint(
                condition=Q(currency__regex=r"^[a-z]{3}$"),
                name="order_currency_is_iso_4217",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["placed", "paid", "declined", "refunded", "cancelled"]),
                name="order_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["paid", "refunded"], paid_at__isnull=False)
                | (~Q(status__in=["paid", "refunded"]) & Q(paid_at__isnull=True)),
                name="order_has_a_time_of_payment_iff_it_was_paid",
            ),
        ]

    def __str__(self) -> str:
        return self.number

    @property
    def total(self) -> str:
        return formatted(self.total_minor, self.currency)


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="order_lines")
    sku = models.CharField(max_length=40, help_text="As it was when the order was placed.")
    quantity = models.PositiveIntegerField()
    unit_price_minor = models.PositiveBigIntegerField()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(quantity__gt=0), name="order_line_quantity_is_positive"),
            models.CheckConstraint(condition=Q(unit_price_minor__gt=0), name="order_line_has_a_price"),
            models.UniqueConstraint(fields=["order", "product"], name="one_line_per_product"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} of {self.sku}"

    @property
    def amount_minor(self) -> int:
        return self.quantity * self.unit_price_minor

    @property
    def amount(self) -> str:
        return formatted(self.amount_minor, self.order.currency)
