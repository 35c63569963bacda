"""A page runs what it came with and nothing else. That each gets along with it, `open_page` sees to in every test."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings

from tests.pages.conftest import Site

SHOP = ["orders/order/", "orders/customer/add/", "catalog/product/add/", "payments/charge/", "auth/group/add/"]


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root")


def test_a_script_that_somebody_slipped_into_a_page_does_not_run(browser: Browser, site: Site) -> None:
    page = browser.new_page(base_url=site.url)
    page.goto("/login/")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { text: 'ran = 1' }))")
    assert page.evaluate("typeof ran") == "undefined"
    page.close()


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/no-such-page/", "/admin/orders/order/?customer__user__username=x"])
@pytest.mark.parametrize(("debug", "expected"), [(False, True), (True, False)])
def test_djangos_page_for_developers_is_left_as_it_is(
    client: Client, settings: Settings, root: User, address: str, debug: bool, expected: bool
) -> None:
    settings.DEBUG = debug
    client.force_login(root)
    assert ("Content-Security-Policy" in client.get(address)) is expected


@pytest.mark.parametrize("address", SHOP)
def test_the_admin_keeps_to_it(open_page: Callable[..., Page], root: User, address: str) -> None:
    page = open_page(root)
    page.goto(f"/admin/{address}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_the_form_of_a_schedule_says_a_crontab_in_words(open_page: Callable[..., Page], root: User) -> None:
    crontab = CrontabSchedule.objects.create(minute="5", hour="3")
    schedule = PeriodicTask.objects.create(name="nightly", task="tasks.lab_sleep", crontab=crontab)
    page = open_page(root)
    page.goto(f"/admin/django_celery_beat/periodictask/{schedule.pk}/change/")
    expect(page.locator(".field-crontab .help")).to_contain_text("03:05")
