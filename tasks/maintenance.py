from celery import shared_task
from django.utils import timezone

from apps.accounts.services import forget_old_sessions
from apps.jobs.retention import sweep
from apps.notifications.services import forget_old_mail
from apps.reports.retention import sweep_report_files
from apps.uploads.retention import forget_failed_uploads, sweep_upload_files
from tasks.policies import FILE_STORE


@shared_task(ignore_result=False, **FILE_STORE)
def cleanup_old_records() -> dict[str, int]:
    """Delete what nobody needs any more, every night, and return how many of each.

    Safe to run twice: the second time there is nothing left to delete.
    """
    now = timezone.now()
    # What needs only the database comes first: it must not wait for a file store that is away.
    swept = sweep(now)
    return {
        "jobs": swept.jobs,
        "dead_letters": swept.letters,
        "workers": swept.workers,
        "chords": swept.chords,
        "sessions": forget_old_sessions(now),
        "mails": forget_old_mail(now),
        "uploads": forget_failed_uploads(now),
        "upload_files": sweep_upload_files(now),
        "report_files": sweep_report_files(now),
    }
