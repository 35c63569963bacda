"""Sales reports: written in the background, kept in the bucket, and mailed when their owner asked for it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import date, datetime, timedelta

from apps.jobs.snooze import Snooze
from apps.notifications.services import send
from apps.orders.queries import sales_by_day_and_product
from apps.reports.models import Report
from apps.reports.sheets import Sheets, Totals
from apps.uploads import bucket

XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
# How long a mail that is due waits for its report between two looks, and after how long it stops waiting.
LOOK_AGAIN_SECONDS = 30
GIVE_UP_AFTER = timedelta(days=1)

Track = Callable[[list[date]], Iterable[date]]


class ReportNeverCame(Exception):
    """The report that should be mailed has not been written. Its own dead letter says why."""


def generate(report_id: int, track: Track) -> None:
    """Compute the sales, day by day for the progress, and write both files. The second time overwrites them.

    If the process dies in between, a file may be there while the report is not ready: nobody can reach it yet.
    """
    report = Report.objects.get(pk=report_id)
    sheets, totals = Sheets(), Totals()
    for day in track(report.days):
        for sale in sales_by_day_and_product(day, day):
            sheets.add(sale)
            totals.add(sale)
    bucket.put(report.csv_key, sheets.csv(), "text/csv; charset=utf-8")
    bucket.put(report.xlsx_key, sheets.xlsx(), XLSX_TYPE)
    Report.objects.filter(pk=report_id).update(state=Report.State.READY, totals=asdict(totals))


def mail_to_owner(report_id: int, key: str, now: datetime) -> None:
    """Mail the owner a link to the report, once a key. Raises `Snooze` while it is being written."""
    report = Report.objects.get(pk=report_id)
    if report.is_ready:
        send(key, report.owner_id, "report_ready", context_id=report.pk)
    elif now > report.created_at + GIVE_UP_AFTER:
        raise ReportNeverCame(f"The report “{report}” was asked for a day ago and has not been written.")
    else:
        raise Snooze(LOOK_AGAIN_SECONDS, "the report is still being written")
