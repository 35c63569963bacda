"""Error policies that several tasks share, in the words of Celery's own options."""

from typing import Any

from apps.catalog.client import SupplierRefused, SupplierUnavailable
from apps.jobs.sqs import QueueUnavailable
from apps.notifications.post import MailRefused, MailUnavailable
from apps.payments.client import CardDeclined, StripeUnavailable
from apps.uploads.bucket import BucketUnavailable

# Full jitter between 0 and the cap: after an outage the jobs do not come back all at once.
FILE_STORE: dict[str, Any] = {
    "autoretry_for": (BucketUnavailable,),
    "retry_backoff": 2,
    "retry_backoff_max": 600,
    "retry_jitter": True,
    "max_retries": 8,
}
# SQS is seldom away, and then for minutes.
MESSAGE_QUEUE: dict[str, Any] = {
    "autoretry_for": (QueueUnavailable,),
    "retry_backoff": 2,
    "retry_backoff_max": 600,
    "retry_jitter": True,
    "max_retries": 8,
}
# A mail server that greylists wants a quarter of an hour; one that is down may take half a day.
MAIL: dict[str, Any] = {
    "throws": (MailRefused,),
    "autoretry_for": (MailUnavailable,),
    "retry_backoff": 10,
    "retry_backoff_max": 3600,
    "retry_jitter": True,
    "max_retries": 15,
}
# Most of the charges that meet an outage succeed within a minute; the last try comes some ten minutes after the first.
STRIPE: dict[str, Any] = {
    "throws": (CardDeclined,),
    "autoretry_for": (StripeUnavailable,),
    "retry_backoff": 2,
    "retry_backoff_max": 600,
    "retry_jitter": True,
    "max_retries": 8,
}
# The supplier closes for an hour now and then: half of these tries come later than that.
SUPPLIER: dict[str, Any] = {
    "throws": (SupplierRefused,),
    "autoretry_for": (SupplierUnavailable,),
    "retry_backoff": 4,
    "retry_backoff_max": 1800,
    "retry_jitter": True,
    "max_retries": 12,
}
