"""Reports and the nightly clean-up as jobs."""

import pytest
from django.contrib.auth.models import User
from django.core import mail

import tasks
from apps.jobs.models import DeadLetter, Job
from apps.reports.models import Report
from apps.uploads.models import Upload
from tests.cast import shopkeeper, uploaded
from tests.jobs.bench import Bench

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]


@pytest.fixture
def report() -> Report:
    return Report.objects.create(owner=shopkeeper("ada"), start="2026-01-01", end="2026-01-31")


@pytest.mark.django_db(transaction=True)
def test_a_report_whose_message_comes_twice_is_written_once_with_its_progress(report: Report, bench: Bench) -> None:
    result = tasks.generate_report.delay(report_id=report.pk)
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    report.refresh_from_db()
    job = bench.job(result)
    assert report.is_ready
    progress = job.progress or {}
    assert (job.attempts, progress["done"], progress["total"]) == (1, 31, 31)


def test_a_mail_that_is_due_before_its_report_comes_back_without_a_retry(report: Report, bench: Bench) -> None:
    result = tasks.send_report.delay(report_id=report.pk)
    bench.run_due()
    job = bench.job(result)
    assert (job.state, job.retries, mail.outbox) == (Job.State.QUEUED, 0, [])
    tasks.generate_report.delay(report_id=report.pk)
    bench.run_due()
    bench.run_all()
    assert bench.job(result).state == Job.State.SUCCEEDED
    assert [message.to for message in mail.outbox] == [["ada@nightshift.example"]]


def test_a_report_that_was_deleted_is_a_dead_letter_without_retries(bench: Bench) -> None:
    result = tasks.generate_report.delay(report_id=404)
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT


def test_the_clean_up_says_what_it_deleted_and_finds_nothing_the_second_time(bench: Bench) -> None:
    upload = uploaded(User.objects.create_user("bert"), "products-small.csv")
    Upload.objects.filter(pk=upload.pk).update(created_at="2020-01-01T00:00Z")
    first, second = tasks.cleanup_old_records.delay(), tasks.cleanup_old_records.delay()
    bench.run_all()
    assert bench.job(first).result["uploads"] + bench.job(second).result["uploads"] == 1
