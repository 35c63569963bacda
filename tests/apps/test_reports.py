"""Sales reports: what the files hold, who may have them, and when they are mailed."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from openpyxl import load_workbook
from pytest_django import Settings

import tasks
from apps.catalog.models import Product
from apps.jobs.models import Job
from apps.jobs.snooze import Snooze
from apps.orders.models import Customer, Order, OrderLine
from apps.orders.queries import Sales
from apps.reports import services
from apps.reports.models import Report
from apps.reports.sheets import Sheets, escaped
from apps.uploads import bucket
from tests.cast import shopkeeper
from tests.nobody import NOBODY

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]

JANUARY = {"start": date(2026, 1, 1), "end": date(2026, 1, 31)}
MEGABYTE = 1024 * 1024


@pytest.fixture
def ada(client: Client) -> User:
    user = shopkeeper("ada")
    client.force_login(user)
    return user


@pytest.fixture
def report(ada: User) -> Report:
    return Report.objects.create(owner=ada, **JANUARY)


def silently(days: Iterable[date]) -> Iterable[date]:
    return days


def sell(owner: User, name: str, quantity: int, paid_at: datetime) -> None:
    customer, _ = Customer.objects.get_or_create(user=owner, payment_method="pm_card_visa")
    product, _ = Product.objects.get_or_create(
        sku=f"NS-{name[:9]}", name=name, defaults={"price_minor": 250, "currency": "eur"}
    )
    order = Order.objects.create(
        customer=customer,
        number=f"{Order.objects.count()}",
        currency="eur",
        total_minor=250 * quantity,
        status=Order.Status.PAID,
        paid_at=paid_at,
    )
    OrderLine.objects.create(order=order, product=product, sku=product.sku, quantity=quantity, unit_price_minor=250)


def rows_of(report: Report) -> tuple[list[list[str]], list[list[str]]]:
    text = bucket.read(report.csv_key, MEGABYTE).decode("utf-8-sig")
    book = load_workbook(io.BytesIO(bucket.read(report.xlsx_key, MEGABYTE)))
    cells = [[str(cell.value) for cell in row] for row in book["Sales"].iter_rows()]
    return list(csv.reader(io.StringIO(text))), cells


def test_a_report_adds_up_what_was_paid_by_day_and_product(ada: User, report: Report) -> None:
    sell(ada, "Lamp", 2, datetime(2026, 1, 1, tzinfo=UTC))
    sell(ada, "Lamp", 1, datetime(2026, 1, 1, 23, 59, tzinfo=UTC))
    sell(ada, "Lamp", 4, datetime(2026, 1, 31, 23, 59, tzinfo=UTC))
    sell(ada, "Lamp", 9, datetime(2026, 2, 1, tzinfo=UTC))
    services.generate(report.pk, track=silently)
    report.refresh_from_db()
    assert (report.state, report.totals) == ("ready", {"quantity": 7, "amount_minor": {"eur": 1750}})
    assert report.amounts == ["17.50 EUR"]
    rows, _ = rows_of(report)
    assert rows == [
        ["day", "sku", "product", "quantity", "amount", "currency"],
        ["2026-01-01", "NS-Lamp", "Lamp", "3", "7.50", "EUR"],
        ["2026-01-31", "NS-Lamp", "Lamp", "4", "10.00", "EUR"],
    ]


def test_a_report_of_nothing_has_a_header_and_no_sales(report: Report) -> None:
    services.generate(report.pk, track=silently)
    rows, cells = rows_of(report)
    assert len(rows) == len(cells) == 1


def test_a_report_written_twice_is_one_report(ada: User, report: Report) -> None:
    sell(ada, "Lamp", 2, datetime(2026, 1, 5, tzinfo=UTC))
    services.generate(report.pk, track=silently)
    services.generate(report.pk, track=silently)
    later = timezone.now() + timedelta(days=1)
    assert sorted(bucket.keys_before("reports/", later)) == sorted([report.csv_key, report.xlsx_key])
    assert len(rows_of(report)[0]) == 2


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\x00=1"])
def test_a_name_that_a_spreadsheet_would_run_is_only_text(start: str) -> None:
    sheets = Sheets()
    sheets.add(Sales(date(2026, 1, 1), start, f"{start} Lamp", 1, 250, "eur"))
    book = load_workbook(sheets.xlsx())
    _, row = book["Sales"].iter_rows()
    assert [cell.data_type for cell in row] == ["d", "s", "s", "n", "n", "s"]
    assert str(row[2].value).startswith("'")
    assert f",'{start[0] if start[0] != chr(0) else '='}" in sheets.csv().getvalue().decode().replace('"', "")


def test_an_ordinary_name_and_a_number_stay_as_they_are() -> None:
    assert escaped("Lamp = light, -20 %") == "Lamp = light, -20 %"


def test_a_report_is_asked_for_together_with_its_job(client: Client, ada: User) -> None:
    response = client.post(reverse("reports:new"), {"start": "2026-01-01", "end": "2026-01-31", "send_at": ""})
    report = Report.objects.get()
    assert response["Location"] == reverse("reports:detail", args=[report.pk])
    job = Job.objects.get()
    assert (job.pk, job.task, job.kwargs) == (report.job_id, tasks.generate_report.name, {"report_id": report.pk})
    assert f'data-job="{job.pk}"' in client.get(response["Location"]).content.decode()


def test_a_report_is_mailed_at_the_moment_that_was_asked_for(client: Client, ada: User) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    client.post(reverse("reports:new"), {"start": "2026-01-01", "end": "2026-01-31", "send_at": moment.isoformat()})
    job = Job.objects.get(task=tasks.send_report.name)
    assert (job.run_at, job.kwargs) == (moment, {"report_id": Report.objects.get().pk})


@pytest.mark.parametrize(
    ("send_at", "sentence"),
    [
        ("2999-01-31T09:00", "Say in which time zone"),
        ("2999-01-31", "Say in which time zone"),
        ("2020-01-31T09:00+01:00", "This moment has passed"),
        ("tomorrow", "Write a date and time like"),
        ("9999-99-99T09:00Z", "Write a date and time like"),
        ("9999-12-31T23:59:59-14:00", "can wait for at most 366 days"),
    ],
)
def test_a_moment_that_means_nothing_is_answered_with_a_sentence(
    client: Client, report: Report, send_at: str, sentence: str
) -> None:
    for address, form in (
        (reverse("reports:new"), {"start": "2026-01-01", "end": "2026-01-31"}),
        (reverse("reports:send", args=[report.pk]), {}),
    ):
        response = client.post(address, {**form, "send_at": send_at})
        assert response.status_code == 422
        assert sentence in response.content.decode()
    assert not Job.objects.exists()


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("start", "end", "sentence"),
    [
        ("2026-02-01", "2026-01-01", "before the first day"),
        ("2024-01-01", "2026-01-01", "at most 366 days"),
        ("yesterday", "2026-01-01", "Enter a valid date"),
        ("9999-12-31", "9999-12-31", "has not come yet"),
        ("", "", "This field is required"),
    ],
)
def test_days_that_make_no_report_are_answered_with_a_sentence(
    client: Client, start: str, end: str, sentence: str
) -> None:
    response = client.post(reverse("reports:new"), {"start": start, "end": end})
    assert response.status_code == 422
    assert sentence in response.content.decode()
    assert not Report.objects.exists()


def test_a_report_is_downloaded_under_a_name_made_of_its_days(client: Client, report: Report) -> None:
    services.generate(report.pk, track=silently)
    for kind in ("csv", "xlsx"):
        response = client.get(reverse("reports:download", args=[report.pk, kind]))
        assert response.status_code == 200
        assert response["Content-Disposition"] == f'attachment; filename="sales-2026-01-01-to-2026-01-31.{kind}"'
    assert client.get(f"/reports/{report.pk}/sales.exe").status_code == 404


def test_a_download_while_the_store_is_away_is_answered_with_a_sentence(
    client: Client, report: Report, settings: Settings
) -> None:
    services.generate(report.pk, track=silently)
    settings.AWS_ENDPOINT_URL = f"http://{NOBODY}"
    response = client.get(reverse("reports:download", args=[report.pk, "csv"]))
    assert response.status_code == 503
    assert "The file store cannot be reached" in response.content.decode()


def test_anothers_report_is_not_there(client: Client, ada: User) -> None:
    report = Report.objects.create(owner=shopkeeper("bert"), **JANUARY)
    services.generate(report.pk, track=silently)
    addresses = [
        reverse("reports:detail", args=[report.pk]),
        reverse("reports:download", args=[report.pk, "csv"]),
        reverse("reports:download", args=[report.pk, "xlsx"]),
    ]
    assert [client.get(address).status_code for address in addresses] == [404, 404, 404]
    assert client.post(reverse("reports:send", args=[report.pk])).status_code == 404
    assert "2026-01-01" not in client.get(reverse("reports:list")).content.decode()


def test_a_report_that_is_not_ready_cannot_be_downloaded(client: Client, report: Report) -> None:
    assert client.get(reverse("reports:download", args=[report.pk, "csv"])).status_code == 404


def test_only_staff_may_ask_for_a_report(client: Client) -> None:
    client.force_login(User.objects.create_user("dora"))
    assert client.post(reverse("reports:new"), {"start": "2026-01-01", "end": "2026-01-31"}).status_code == 403
    assert not Report.objects.exists()


def test_a_mail_waits_for_its_report_and_then_links_to_it(report: Report) -> None:
    with pytest.raises(Snooze):
        services.mail_to_owner(report.pk, "job-1", timezone.now())
    services.generate(report.pk, track=silently)
    services.mail_to_owner(report.pk, "job-1", timezone.now())
    services.mail_to_owner(report.pk, "job-1", timezone.now())
    [message] = mail.outbox
    assert reverse("reports:detail", args=[report.pk]) in message.body


def test_a_mail_does_not_wait_for_ever(report: Report) -> None:
    with pytest.raises(services.ReportNeverCame):
        services.mail_to_owner(report.pk, "job-1", timezone.now() + timedelta(days=2))
