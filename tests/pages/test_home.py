from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from django.utils.http import urlencode
from playwright.sync_api import Page, expect

from apps.home.patterns import patterns
from apps.jobs.models import Job
from tests.pages.conftest import PASSWORD
from tests.shop import PAYS, a_customer, a_product

ROLLED_BACK = "/patterns/transactional-enqueue/break/"


@pytest.fixture
def home(open_page: Callable[..., Page], ada: User) -> Page:
    page = open_page(ada)
    page.goto("/")
    return page


def test_there_is_a_card_with_two_buttons_for_every_pattern(home: Page) -> None:
    assert home.get_by_role("button", name="Run it").count() == len(list(patterns()))
    assert home.get_by_role("button", name="Break it").count() == len(list(patterns()))


def test_a_button_shows_its_outcome_in_its_card(home: Page) -> None:
    a_product()
    a_customer("cleo", PAYS)
    home.get_by_role("button", name="Break it: Enqueue in a transaction").click()
    outcome = home.locator("#pattern-transactional-enqueue .outcome")
    expect(outcome).to_contain_text("rolled the transaction back")
    expect(outcome).to_contain_text("neither exists")
    assert not Job.objects.exists()


def test_an_outcome_is_watched_until_it_is_known(home: Page) -> None:
    home.get_by_role("button", name="Run it: Database events").click()
    outcome = home.locator("#pattern-database-events .outcome")
    expect(outcome).to_contain_text("has not ended yet")
    job = Job.objects.get()
    Job.objects.filter(pk=job.pk).update(state="succeeded", started_at=job.created_at, finished_at=job.created_at)
    expect(outcome).to_contain_text("started 0 ms after")
    expect(outcome.locator("[data-refresh]")).to_have_count(0)


def test_a_figure_that_changes_leaves_the_focus_where_it_is(home: Page) -> None:
    link = home.locator(".figures").get_by_role("link")
    link.focus()
    Job.objects.create(task="tasks.lab_sleep", queue="default")
    expect(home.locator(".figures dd").first).to_have_text("1")
    expect(link).to_be_focused()


def test_an_outcome_that_changes_leaves_the_focus_where_it_is(home: Page) -> None:
    home.get_by_role("button", name="Run it: Database events").click()
    outcome = home.locator("#pattern-database-events .outcome")
    link = outcome.get_by_role("link")
    link.focus()
    Job.objects.update(state="running", started_at=timezone.now())
    expect(outcome).to_contain_text("running")
    expect(link).to_be_focused()


def test_a_full_queue_is_told_in_the_card(home: Page) -> None:
    home.get_by_role("button", name="Break it: Backpressure").click()
    expect(home.locator("#pattern-backpressure .outcome")).to_contain_text("is full")
    assert not Job.objects.exists()


def test_a_lost_connection_is_told_and_the_watch_goes_on_after_it(home: Page) -> None:
    home.get_by_role("button", name="Run it: Database events").click()
    outcome = home.locator("#pattern-database-events .outcome")
    expect(outcome).to_contain_text("has not ended yet")
    home.context.set_offline(True)
    expect(outcome).to_contain_text("Connection lost, retrying")
    home.context.set_offline(False)
    expect(outcome).not_to_contain_text("Connection lost", timeout=15_000)


def test_without_its_script_a_button_leads_to_a_page_with_the_outcome(
    open_page: Callable[..., Page], ada: User
) -> None:
    page = open_page(ada, java_script_enabled=False)
    page.goto("/")
    page.get_by_role("button", name="Run it: Database events").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Database events")
    expect(page.locator("main")).to_contain_text("Committed one job.")
    expect(page.get_by_role("link", name="Look again")).to_be_visible()


def test_only_staff_may_press_the_buttons(client: Client, db: None) -> None:
    User.objects.create_user("bert", password=PASSWORD)
    client.login(username="bert", password=PASSWORD)
    assert "data-act" not in client.get("/").text
    assert client.post(ROLLED_BACK).status_code == 403


def test_nothing_starts_without_the_sandbox(client: Client, ada: User, settings: object) -> None:
    settings.SANDBOX = False  # type: ignore[attr-defined]
    client.force_login(ada)
    assert "The sandbox is off" in client.get("/").text
    assert client.post(ROLLED_BACK).status_code == 403


def test_nothing_starts_by_a_link_or_without_the_token(ada: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(ada)
    assert client.get(ROLLED_BACK).status_code == 405
    assert client.post(ROLLED_BACK).status_code == 403


@pytest.mark.parametrize("address", ["/patterns/nothing/run/", "/patterns/unique/other/"])
def test_a_pattern_that_does_not_exist_is_404(client: Client, ada: User, address: str) -> None:
    client.force_login(ada)
    assert client.post(address).status_code == 404


def test_a_shop_without_products_says_so_instead_of_failing(client: Client, ada: User) -> None:
    a_customer("cleo", PAYS)
    client.force_login(ada)
    response = client.post(ROLLED_BACK)
    assert response.status_code == 409
    assert "no products" in response.text


@pytest.mark.parametrize("query", ["?job=garbage", ""])
def test_an_outcome_of_nothing_is_no_error(client: Client, ada: User, query: str) -> None:
    client.force_login(ada)
    for pattern in patterns():
        for act in ("run", "break"):
            response = client.get(f"/patterns/{pattern.slug}/{act}/seen/{query}")
            assert response.status_code == (404 if query else 200), pattern.slug


def test_an_outcome_of_other_jobs_than_the_buttons_is_no_error(client: Client, ada: User) -> None:
    client.force_login(ada)
    ended = {"task": "tasks.lab_nothing", "queue": "default", "state": "succeeded", "finished_at": timezone.now()}
    query = urlencode({"job": [str(Job.objects.create(**ended).pk) for _ in range(2)]}, doseq=True)
    for pattern in patterns():
        for act in ("run", "break"):
            assert client.get(f"/patterns/{pattern.slug}/{act}/seen/?{query}").status_code == 200, pattern.slug


def test_a_button_pressed_after_the_session_has_ended_leads_to_a_sentence(client: Client, ada: User) -> None:
    asked = client.post(ROLLED_BACK)
    assert asked["Location"] == f"/login/?next={ROLLED_BACK}"
    client.force_login(ada)
    assert "press it again" in client.get(ROLLED_BACK).text
