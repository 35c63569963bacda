from collections.abc import Iterable
from datetime import datetime

from apps.reports.models import Report
from apps.uploads import orphans


def sweep_report_files(now: datetime) -> int:
    """Delete the files of deleted reports. Returns how many; run again, it finds none."""
    return orphans.sweep("reports/", now, _owned)


def _owned(keys: Iterable[str]) -> set[str]:
    wanted = list(keys)
    csv_keys = Report.objects.filter(csv_key__in=wanted).values_list("csv_key", flat=True)
    xlsx_keys = Report.objects.filter(xlsx_key__in=wanted).values_list("xlsx_key", flat=True)
    return {*csv_keys, *xlsx_keys}
