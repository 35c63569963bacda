"""Every pattern, run from its card by a person with a browser, against all the processes of the Procfile."""

import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from apps.home.patterns import patterns
from apps.local import environment
from apps.local.ports import free_port
from apps.local.stack import Stack
from apps.local.throwaway import FOLDER

# Longer than a person would wait, and as long as a machine with many other tests may need.
PATIENCE = 120_000
# It holds if a hundred calls take little longer than one, which they do not on a machine that is busy.
MEASURES_TIME = {"concurrency"}


@pytest.fixture
def shop(browser: Browser) -> Iterator[Page]:
    """The home page of an installation of its own, seen by an administrator."""
    folder = FOLDER / f"shop-{uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    stack = Stack(folder, environment.given(), silence)
    context = browser.new_context()
    try:
        stack.start(port=free_port(8900), simulator=False)
        page = context.new_page()
        sign_in(page, stack.url, stack.environment["ADMIN_PASSWORD"])
        yield page
    finally:
        context.close()
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def silence(*_: str) -> None:
    """Nobody reads how far the start is."""


def sign_in(page: Page, url: str, password: str) -> None:
    page.goto(url)
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_every_pattern_runs_and_its_card_says_that_it_held(shop: Page) -> None:
    for pattern in patterns():
        card = shop.locator(f"#pattern-{pattern.slug}")
        card.get_by_role("button", name="Run it").click()
        verdict = card.locator(".seen-ok, .seen-bad" if pattern.slug in MEASURES_TIME else ".seen-ok")
        expect(verdict, pattern.title).to_be_visible(timeout=PATIENCE)
    follow_a_job(shop)


def follow_a_job(page: Page) -> None:
    """From its card to its page, where the bar moves to its end."""
    card = page.locator("#pattern-progress")
    card.get_by_role("button", name="Run it").click()
    card.locator(".outcome-job a").first.click()
    bar = page.get_by_role("progressbar")
    shares: list[float] = []
    while not shares or shares[-1] < 1:
        bar.wait_for()
        shares.append(bar.evaluate("bar => bar.position"))
    assert shares == sorted(shares)
    expect(page.locator(".timeline")).to_contain_text("Succeeded", timeout=PATIENCE)
