from datetime import datetime, timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

import tasks
from apps.accounts.access import member_of_staff, signed_in
from apps.jobs.models import Job
from apps.reports.forms import ReportForm, SendForm
from apps.reports.models import Report
from apps.reports.services import XLSX_TYPE
from apps.uploads.answers import answer_with_file

# The newest that a page shows.
SHOWN = 50
# A year of a thousand products has 20 MB of CSV; more would not fit a web worker's memory beside its other requests.
MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "xlsx": XLSX_TYPE}


@login_required
@require_GET
@never_cache
def reports(request: HttpRequest) -> HttpResponse:
    own = Report.objects.filter(owner=signed_in(request))[:SHOWN]
    return render(request, "reports/list.html", {"reports": own})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def new(request: HttpRequest) -> HttpResponse:
    report = Report(owner=member_of_staff(request))
    form = ReportForm(request.POST or None, instance=report, initial=_last_month())
    if request.method != "POST":
        return render(request, "reports/new.html", {"form": form})
    if not form.is_valid():
        return render(request, "reports/new.html", {"form": form}, status=422)
    start(form.save(commit=False), form.cleaned_data["send_at"])
    return redirect("reports:detail", report.pk)


@login_required
@require_GET
@never_cache
def detail(request: HttpRequest, report_id: int) -> HttpResponse:
    report = get_object_or_404(Report, pk=report_id, owner=signed_in(request))
    return _detail(request, report, SendForm())


@login_required
@require_POST
def send(request: HttpRequest, report_id: int) -> HttpResponse:
    report = get_object_or_404(Report, pk=report_id, owner=member_of_staff(request))
    form = SendForm(request.POST)
    if not form.is_valid():
        return _detail(request, report, form, status=422)
    moment = form.cleaned_data["send_at"]
    tasks.send_report.apply_async(kwargs={"report_id": report.pk}, eta=moment)
    messages.success(request, f"It will be mailed to you {f'at {moment:%Y-%m-%d %H:%M %Z}' if moment else 'now'}.")
    return redirect("reports:detail", report.pk)


@login_required
@require_GET
@never_cache
def download(request: HttpRequest, report_id: int, kind: str) -> HttpResponse:
    """Answer with one of the report's files. Its name is made of two dates: nothing that anybody typed as text."""
    report = get_object_or_404(Report, pk=report_id, owner=signed_in(request), state=Report.State.READY)
    key = report.csv_key if kind == "csv" else report.xlsx_key
    name = content_disposition_header(True, f"sales-{report.start}-to-{report.end}.{kind}") or "attachment"
    headers, content_type = {"Content-Disposition": name}, CONTENT_TYPES[kind]
    return answer_with_file(request, key, at_most=MAX_DOWNLOAD_BYTES, content_type=content_type, headers=headers)


def start(report: Report, send_at: datetime | None = None) -> None:
    """Save a report together with its jobs, or none of them."""
    with transaction.atomic():
        report.save()
        tasks.generate_report.apply_async(kwargs={"report_id": report.pk}, task_id=str(report.job_id))
        if send_at is not None:
            tasks.send_report.apply_async(kwargs={"report_id": report.pk}, eta=send_at)


def _detail(request: HttpRequest, report: Report, form: SendForm, status: int = 200) -> HttpResponse:
    live = not report.is_ready and Job.objects.filter(pk=report.job_id, state__in=Job.LIVE).exists()
    return render(request, "reports/detail.html", {"report": report, "live": live, "form": form}, status=status)


def _last_month() -> dict[str, object]:
    today = timezone.now().date()
    return {"start": today - timedelta(days=29), "end": today}
