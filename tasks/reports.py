from typing import Any

from celery import shared_task
from django.utils import timezone

from apps.reports import services
from tasks.policies import FILE_STORE, MAIL


@shared_task(bind=True, **FILE_STORE)
def generate_report(self: Any, *, report_id: int) -> None:
    """Compute sales by day and product, and write them as CSV and XLSX.

    Safe to run twice: both files have keys of their own, and are written over.
    """
    services.generate(report_id, track=self.track)


@shared_task(bind=True, **MAIL)
def send_report(self: Any, *, report_id: int) -> None:
    """Mail a report to its owner; the caller says when with `eta=`. Comes back later while it is being written.

    Safe to run twice: the job's id is the mail's key.
    """
    services.mail_to_owner(report_id, key=self.request.id, now=timezone.now())
