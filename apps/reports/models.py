from datetime import date, timedelta

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from apps.catalog.money import formatted
from apps.jobs.ids import uuid7
from apps.uploads import bucket


def new_csv_key() -> str:
    return bucket.new_key("reports", ".csv")


def new_xlsx_key() -> str:
    return bucket.new_key("reports", ".xlsx")


class Report(models.Model):
    """Sales of some days, both ends included. Its files' keys are made with it, so writing them again replaces them."""

    class State(models.TextChoices):
        ASKED = "asked", "Being written"
        READY = "ready", "Ready"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="reports")
    start = models.DateField()
    end = models.DateField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.ASKED)
    csv_key = models.CharField(max_length=100, unique=True, default=new_csv_key)
    xlsx_key = models.CharField(max_length=100, unique=True, default=new_xlsx_key)
    totals = models.JSONField(default=dict, blank=True, help_text="Minor units sold, by currency; and pieces")
    created_at = models.DateTimeField(auto_now_add=True)
    job_id = models.UUIDField(default=uuid7, editable=False)

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("owner", "-created_at"), name="report_owner_newest"),)
        constraints = (models.CheckConstraint(condition=Q(start__lte=F("end")), name="report_starts_before_its_end"),)

    def __str__(self) -> str:
        return f"Sales {self.start} to {self.end}"

    @property
    def is_ready(self) -> bool:
        return self.state == self.State.READY

    @property
    def days(self) -> list[date]:
        return [self.start + timedelta(days=day) for day in range((self.end - self.start).days + 1)]

    @property
    def amounts(self) -> list[str]:
        """What was sold, as people read it: one entry a currency."""
        return [formatted(minor, currency) for currency, minor in self.totals.get("amount_minor", {}).items()]
