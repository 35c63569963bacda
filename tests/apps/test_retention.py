"""The nightly clean-up deletes what nobody needs, and nothing else."""

import io
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from apps.accounts.services import forget_old_sessions
from apps.notifications.models import SentMail
from apps.notifications.services import forget_old_mail
from apps.reports.models import Report
from apps.reports.retention import sweep_report_files
from apps.uploads import bucket
from apps.uploads.models import Upload
from apps.uploads.pictures import thumbnail_key
from apps.uploads.retention import forget_failed_uploads, sweep_upload_files
from tests.cast import shopkeeper, uploaded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]

NOW = timezone.now()
TOMORROW = NOW + timedelta(days=2)  # past the grace of a day, however long ago this module was imported


@pytest.fixture
def ada() -> User:
    return shopkeeper("ada")


def stored() -> set[str]:
    return set(bucket.keys_before("", TOMORROW))


def put(key: str) -> str:
    bucket.put(key, io.BytesIO(b"x"), "text/plain")
    return key


def test_files_that_no_row_names_are_swept_and_the_others_stay(ada: User) -> None:
    kept, deleted = uploaded(ada, "picture.png"), uploaded(ada, "picture.png")
    small = put(thumbnail_key(kept.key, 160))
    put(thumbnail_key(deleted.key, 160))
    deleted.delete()
    never_committed = put("uploads/never-committed")
    assert sweep_upload_files(NOW) == 0, "young files may belong to an open transaction"
    assert sweep_upload_files(TOMORROW) == 3
    assert sweep_upload_files(TOMORROW) == 0
    assert stored() == {kept.key, small}
    assert never_committed not in stored()


def test_a_deleted_reports_files_are_swept(ada: User) -> None:
    report = Report.objects.create(owner=ada, start="2026-01-01", end="2026-01-31")
    keys = {put(report.csv_key), put(report.xlsx_key)}
    assert sweep_report_files(TOMORROW) == 0
    report.delete()
    assert sweep_report_files(TOMORROW) == 2
    assert not keys & stored()


def test_failed_uploads_go_after_a_month_and_good_ones_stay(ada: User) -> None:
    good, failed, stuck, young = (uploaded(ada, "products-small.csv") for _ in range(4))
    Upload.objects.exclude(pk=young.pk).update(created_at=NOW - timedelta(days=31))
    Upload.objects.filter(pk=good.pk).update(state=Upload.State.DONE)
    Upload.objects.filter(pk__in=(failed.pk, young.pk)).update(state=Upload.State.FAILED)
    assert forget_failed_uploads(NOW) == 2
    assert forget_failed_uploads(NOW) == 0
    assert set(Upload.objects.all()) == {good, young}
    assert not Upload.objects.filter(pk=stuck.pk).exists()


def test_expired_sessions_and_old_mail_records_go(ada: User) -> None:
    for key, age in (("old", -1), ("new", 1)):
        Session.objects.create(session_key=key, session_data="", expire_date=NOW + timedelta(days=age))
        SentMail.objects.create(key=key, user=ada, template="welcome")
    SentMail.objects.filter(key="old").update(sent_at=NOW - timedelta(days=101))
    assert (forget_old_sessions(NOW), forget_old_mail(NOW)) == (1, 1)
    assert (forget_old_sessions(NOW), forget_old_mail(NOW)) == (0, 0)
    assert Session.objects.get().session_key == SentMail.objects.get().key == "new"
