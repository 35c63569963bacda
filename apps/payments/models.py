"""What we asked Stripe for, recorded before we asked."""

from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from apps.catalog.money import formatted
from apps.orders.models import Order

# Stripe forgets idempotency keys after 24 hours, and then takes the same key for a new request. The hour between is
# for clocks that differ and for a request that was on its way.
KEY_IS_SAFE_FOR = timedelta(hours=23)


class StripeRequest(models.Model):
    """Something that must happen once at Stripe, and the idempotency key that names it."""

    recorded_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True)
    spent_keys = models.PositiveSmallIntegerField(
        default=0, help_text="Keys under which Stripe stored a 5xx: it would repeat that answer for ever."
    )

    class Meta:
        abstract = True

    @property
    def name_at_stripe(self) -> str:
        raise NotImplementedError

    @property
    def idempotency_key(self) -> str:
        """Names the request and never the attempt, so that each attempt asks Stripe the same question."""
        return f"{self.name_at_stripe}-key-{self.spent_keys + 1}" if self.spent_keys else self.name_at_stripe

    def must_be_looked_up(self, now: datetime) -> bool:
        """Whether the key no longer tells Stripe that it has done this before."""
        return self.spent_keys > 0 or now - self.recorded_at > KEY_IS_SAFE_FOR

    def renew_key(self) -> None:
        """Only the first of several workers that saw the same key spent renews it."""
        same_key = type(self)._default_manager.filter(pk=self.pk, spent_keys=self.spent_keys)  # noqa: SLF001 (documented)
        same_key.update(spent_keys=F("spent_keys") + 1)


class Charge(StripeRequest):
    """One intent to take an order's money. It exists, with its idempotency key, before Stripe hears of it."""

    class Status(models.TextChoices):
        RECORDED = "recorded", "recorded, Stripe not asked yet"
        CREATED = "created", "created at Stripe, not confirmed yet"
        UNKNOWN = "unknown", "asked, and the answer was lost"
        SUCCEEDED = "succeeded"
        DECLINED = "declined"
        REFUNDED = "refunded"

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="charges")
    number = models.PositiveSmallIntegerField(help_text="1 for the order's first charge; a declined card makes a 2.")
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=10, choices=Status, default=Status.RECORDED)
    payment_intent = models.CharField(max_length=64, blank=True, default="")
    decline_code = models.CharField(max_length=64, blank=True, default="")
    decline_message = models.CharField(max_length=500, blank=True, default="")
    historic = models.BooleanField(default=False, help_text="Imported. Stripe has not heard of it from this shop.")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["order", "number"], name="charge_number_is_unique_in_its_order"),
            # The database's word that nobody is charged twice: only a declined charge makes room for another.
            models.UniqueConstraint(
                fields=["order"],
                condition=~Q(status="declined"),
                name="one_live_charge_per_order",
            ),
            models.UniqueConstraint(
                fields=["payment_intent"],
                condition=~Q(payment_intent=""),
                name="one_charge_per_payment_intent",
            ),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="charge_amount_is_positive"),
            models.CheckConstraint(
                condition=Q(currency__regex=r"^[a-z]{3}$"),
                name="charge_currency_is_iso_4217",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order.number} charge {self.number}"

    @property
    def amount(self) -> str:
        return formatted(self.amount_minor, self.currency)

    @property
    def is_open(self) -> bool:
        return self.status in (self.Status.RECORDED, self.Status.CREATED, self.Status.UNKNOWN)

    @property
    def is_settled(self) -> bool:
        return self.status in (self.Status.SUCCEEDED, self.Status.REFUNDED)

    @property
    def name_at_stripe(self) -> str:
        return f"order-{self.order_id}-charge-{self.number}"


class Refund(StripeRequest):
    """The intent to give a charge's money back, all of it. One a charge, for ever."""

    class Status(models.TextChoices):
        RECORDED = "recorded", "recorded, Stripe not asked yet"
        UNKNOWN = "unknown", "asked, and the answer was lost"
        SUCCEEDED = "succeeded"

    charge = models.OneToOneField(Charge, on_delete=models.PROTECT, related_name="refund")
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=10, choices=Status, default=Status.RECORDED)
    stripe_refund = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-id"]
        constraints = [models.CheckConstraint(condition=Q(amount_minor__gt=0), name="refund_amount_is_positive")]

    def __str__(self) -> str:
        return f"refund of {self.charge}"

    @property
    def amount(self) -> str:
        return formatted(self.amount_minor, self.currency)

    @property
    def name_at_stripe(self) -> str:
        return f"{self.charge.name_at_stripe}-refund"


class WebhookEvent(models.Model):
    """An event that Stripe sent, kept so that its second delivery does nothing. Its body is not kept."""

    event_id = models.CharField(max_length=64, unique=True)
    type = models.CharField(max_length=80)
    payment_intent = models.CharField(max_length=64, blank=True, default="")
    outcome = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="What it changed here, or why nothing.",
    )
    created_at = models.DateTimeField(help_text="When Stripe made it.")
    received_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"
