"""Snooze: a job that says "not now, come back later".

A planned delay is not an error: it costs no retry, is no failure in any count, and no worker waits.

Not guaranteed. For ever: a job that has only snoozed for `JOBS_SNOOZE_LIMIT` is dead. What it waited beyond that, for a
worker or in a paused queue, is not counted.
"""

from datetime import timedelta

from celery.exceptions import Ignore
from django.utils import timezone


class Snooze(Ignore):
    """Raise it in a task to have the same job run again in `seconds`. OverflowError: that is past the year 9999."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        timezone.now() + timedelta(seconds=seconds)
        super().__init__(f"come back in {seconds:g} s" + (f": {reason}" if reason else ""))
        self.seconds = seconds
        self.reason = reason

    def __reduce__(self) -> tuple[type["Snooze"], tuple[float, str]]:
        return type(self), (self.seconds, self.reason)
