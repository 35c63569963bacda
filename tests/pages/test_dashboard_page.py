"""The dashboard in a browser: it stays fresh by itself, and everybody can read it."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Locator, Page, Route, expect

from apps.jobs.models import Job, QueueMinute

# What is looked at once a second, on a machine that may be busy.
SOON = 15_000


def figure(page: Page, name: str) -> Locator:
    return page.locator(".figure").filter(has_text=name).locator("dd")


def a_sample(waiting: int = 7) -> None:
    minute = timezone.now().replace(second=0, microsecond=0)
    QueueMinute.objects.create(minute=minute, queue="high", waiting=waiting, running=0, oldest=1)


@pytest.fixture
def board(open_page: Callable[..., Page], ada: User) -> Page:
    a_sample()
    page = open_page(ada)
    page.goto("/jobs/")
    return page


STREAMS: dict[str, Callable[[Route], None]] = {
    "a stream": lambda route: route.continue_(),
    "refused": lambda route: route.fulfill(status=503),
    "cut": lambda route: route.abort(),
}


@pytest.mark.parametrize("streams", STREAMS)
def test_it_changes_without_a_reload(open_page: Callable[..., Page], ada: User, streams: str) -> None:
    page = open_page(ada)
    page.route("**/events/**", STREAMS[streams])
    page.goto("/jobs/")
    expect(figure(page, "Waiting")).to_have_text("0")
    expect(page.locator(".plot canvas").first).to_be_visible()
    Job.objects.create(task="tasks.lab_sleep", queue="high")
    expect(figure(page, "Waiting")).to_have_text("1", timeout=SOON)


def test_each_question_has_a_chart_with_a_table_behind_it(board: Page) -> None:
    cards = board.locator("[data-chart]")
    expect(cards.locator("canvas")).to_have_count(5)
    questions = cards.locator("h3").all_inner_texts()
    assert [question[-1] for question in questions] == ["?"] * 5
    for card in cards.all():
        card.locator("summary").click()
        expect(card.locator("details tbody tr")).to_have_count(60)
    waiting = cards.first.locator("details table")
    expect(waiting.locator("thead")).to_contain_text("high")
    expect(waiting.locator("tbody")).to_contain_text("7")


def test_a_table_that_is_open_stays_open_and_the_focus_stays_where_it_is(board: Page) -> None:
    summary = board.locator("[data-chart=waiting] summary")
    summary.focus()
    board.keyboard.press("Enter")
    a_job = Job.objects.create(task="tasks.lab_sleep", queue="high")
    expect(figure(board, "Waiting")).to_have_text("1", timeout=SOON)
    expect(summary).to_be_focused()
    expect(board.locator("[data-chart=waiting] details table")).to_be_visible()
    a_job.delete()
    expect(figure(board, "Waiting")).to_have_text("0", timeout=SOON)


def test_the_day_is_one_link_away_and_says_so(board: Page) -> None:
    board.get_by_role("link", name="Last day").click()
    expect(board.get_by_role("link", name="Last day")).to_have_attribute("aria-current", "page")
    board.locator("[data-chart=failed] summary").click()
    expect(board.locator("[data-chart=failed] details tbody tr")).to_have_count(144)


def test_charts_have_names_and_tables_can_be_scrolled_by_keyboard(board: Page) -> None:
    expect(board.get_by_role("img", name="How many wait?")).to_be_visible()
    expect(board.get_by_role("region", name="Queues")).to_have_attribute("tabindex", "0")


def test_its_figures_need_no_script(open_page: Callable[..., Page], ada: User) -> None:
    Job.objects.create(task="tasks.lab_sleep", queue="high")
    page = open_page(ada, java_script_enabled=False)
    page.goto("/jobs/")
    expect(figure(page, "Waiting")).to_have_text("1")


def test_who_may_not_look_is_refused_and_sees_no_link(open_page: Callable[..., Page]) -> None:
    page = open_page(User.objects.create_user("bert", is_staff=True))
    page.goto("/orders/")
    expect(page.get_by_role("link", name="Dashboard")).to_have_count(0)
    answer = page.goto("/jobs/")
    assert answer is not None
    assert answer.status == 403
