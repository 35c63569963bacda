from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone

from apps.reports.models import Report

# A year and a day: more is a job for a data warehouse.
LONGEST_DAYS = 366
# A mail asked for later than that was meant for another year.
LATEST_MAIL = timedelta(days=366)
# The one format that a date field of HTML takes, whatever the language.
DATE = forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})


class AwareDateTimeField(forms.CharField):
    """A moment in the future, with its time zone written out: 9 o'clock alone is a different moment everywhere."""

    default_error_messages = {
        "invalid": "Write a date and time like 2026-01-31T09:00+01:00.",
        "naive": "Say in which time zone: put Z (for UTC) or an offset like +01:00 behind the time.",
        "past": "This moment has passed.",
        "far": f"A mail can wait for at most {LATEST_MAIL.days} days.",
    }

    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValidationError(self.error_messages["invalid"], "invalid") from error
        if moment.tzinfo is None:
            raise ValidationError(self.error_messages["naive"], "naive")
        if moment <= timezone.now():
            raise ValidationError(self.error_messages["past"], "past")
        if moment > timezone.now() + LATEST_MAIL:
            raise ValidationError(self.error_messages["far"], "far")
        return moment


class SendForm(forms.Form):
    send_at = AwareDateTimeField(
        label="Send at",
        required=False,
        help_text="With its time zone, like 2026-01-31T09:00+01:00. Empty: at once.",
        widget=forms.TextInput(attrs={"placeholder": "2026-01-31T09:00+01:00", "autocomplete": "off"}),
    )


class ReportForm(forms.ModelForm):  # type: ignore[type-arg]
    send_at = AwareDateTimeField(
        label="Mail it to me at",
        required=False,
        help_text="With its time zone, like 2026-01-31T09:00+01:00. Empty: not at all.",
        widget=forms.TextInput(attrs={"placeholder": "2026-01-31T09:00+01:00", "autocomplete": "off"}),
    )

    class Meta:
        model = Report
        fields = ("start", "end")
        labels = {"start": "First day", "end": "Last day"}
        widgets = {"start": DATE, "end": DATE}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, end = cleaned.get("start"), cleaned.get("end")
        if start and end and start > end:
            self.add_error("end", "The last day is before the first day.")
        if end and end > timezone.now().date():
            self.add_error("end", "This day has not come yet.")
        if start and end and (end - start).days >= LONGEST_DAYS:
            self.add_error("end", f"A report covers at most {LONGEST_DAYS} days.")
        return cleaned
