"""The page of a report while it is being written: what a shopkeeper sees who has asked for a long one."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.jobs.models import Job
from apps.reports.models import Report

# The page hears of a change within a second, and this machine may be busy.
SOON = 15_000


def progress(done: int) -> dict[str, Any]:
    return {"done": done, "total": 30, "percent": done / 30 * 100, "eta": 8.0, "note": "adding up the days"}


@pytest.fixture
def report(ada: User) -> Report:
    """Ten of its thirty days are added up."""
    report = Report.objects.create(owner=ada, start=date(2026, 10, 1), end=date(2026, 10, 30))
    Job.objects.create(
        id=report.job_id,
        task="tasks.generate_report",
        kwargs={"report_id": report.pk},
        queue="low",
        state=Job.State.RUNNING,
        attempts=1,
        started_at=timezone.now(),
        progress=progress(10),
    )
    return report


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_shows_how_far_it_is_and_then_its_files(
    open_page: Callable[..., Page], ada: User, report: Report, scheme: str
) -> None:
    page = open_page(ada, color_scheme=scheme)
    page.goto(f"/reports/{report.pk}/")
    bar = page.get_by_role("progressbar")
    expect(page.locator("[data-job-count]")).to_contain_text("10 of 30", timeout=SOON)
    expect(page.get_by_text("adding up the days")).to_be_visible()
    expect(page.get_by_role("link", name="Download XLSX")).to_have_count(0)
    Job.objects.filter(pk=report.job_id).update(progress=progress(24))
    expect(bar).to_have_js_property("value", 80, timeout=SOON)
    Report.objects.filter(pk=report.pk).update(
        state=Report.State.READY, totals={"quantity": 7, "amount_minor": {"eur": 9900}}
    )
    Job.objects.filter(pk=report.job_id).update(state=Job.State.SUCCEEDED, finished_at=timezone.now())
    expect(page.get_by_role("link", name="Download XLSX")).to_be_visible(timeout=SOON)
