from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Page, expect

from apps.orders.services import place_order
from apps.reports.models import Report
from apps.uploads.models import Upload
from tests.pages.conftest import PASSWORD
from tests.shop import a_customer, a_product


def sign_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_a_visitor_signs_in_and_is_taken_where_they_wanted_to_go(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page()
    page.goto("/")
    sign_in(page, "ada", PASSWORD)
    expect(page.get_by_role("heading", level=1)).to_contain_text("background job")
    expect(page.locator(".who")).to_contain_text("ada")


def test_a_wrong_password_is_told_in_a_sentence(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page()
    page.goto("/login/")
    sign_in(page, "ada", "wrong")
    expect(page.get_by_role("alert")).to_contain_text("do not match")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"username": " "}, "This field is required."),
        ({"username": "ada\0"}, "Null characters are not allowed."),
        ({"password": ""}, "This field is required."),
    ],
)
def test_a_form_that_cannot_be_read_is_told_in_a_sentence(client: Client, wrong: dict[str, str], sentence: str) -> None:
    assert sentence in client.post("/login/", {"username": "ada", "password": PASSWORD} | wrong).text


def test_signing_out_ends_the_session(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page()
    page.goto("/login/")
    sign_in(page, "ada", PASSWORD)
    page.get_by_role("button", name="Sign out").click()
    page.goto("/")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


LISTS = ("/orders/", "/catalog/", "/uploads/", "/reports/")
FORMS = ("/orders/place/", "/uploads/new/", "/reports/new/")


def test_no_browser_keeps_a_page_to_show_it_when_somebody_goes_back_after_signing_out(
    client: Client, ada: User
) -> None:
    client.force_login(ada)
    order = place_order(a_customer("bert"), {a_product().sku: 1})
    report = Report.objects.create(owner=ada, start="2026-10-01", end="2026-10-30")
    upload = Upload.objects.create(owner=ada, kind="csv", original_name="products.csv", size=1)
    for address in (*LISTS, *FORMS, f"/orders/{order.pk}/", f"/reports/{report.pk}/", f"/uploads/{upload.pk}/"):
        response = client.get(address)
        assert (response.status_code, "no-store" in response.get("Cache-Control", "")) == (200, True), address
