"""Every card of the home page, played by a person with a browser against all the processes of the Procfile.

`manage.py tour` plays the same acts one after the other and holds them to their times. Here they are started together,
as many visitors would, and each card has to say in the end that its pattern held.
"""

import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from apps.home.act import Act
from apps.home.patterns import Pattern, patterns
from apps.local.ports import any_port
from apps.local.stack import Stack
from apps.local.throwaway import FOLDER
from tests.conftest import ADDRESSES, ENVIRONMENT
from tests.pages.conftest import ALLOW_ASYNC

# Longer than a person would wait, and as long as a machine with many other tests may need.
PATIENCE = 60_000
# These say how quick something was, which nothing is that starts together with twenty others.
MEASURE_TIME = {"concurrency", "database-events", "priority"}
# These break what the others are at: a supplier that turns everybody away, and a broker that forgets everything.
BREAK_ALONE = ("retry-after", "wiped-broker")


@pytest.fixture
def shop(browser: Browser) -> Iterator[Page]:
    """The home page of an installation of its own, seen by an administrator."""
    folder = FOLDER / f"shop-{uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    of_the_tests = {*ENVIRONMENT, *ADDRESSES, ALLOW_ASYNC}
    given = {name: value for name, value in os.environ.items() if name not in of_the_tests}
    stack = Stack(folder, given, lambda *_: None)
    context = browser.new_context()
    try:
        with signal_handlers_kept():
            stack.start(port=any_port(), simulator=False)
        page = context.new_page()
        sign_in(page, stack.url, stack.environment["ADMIN_PASSWORD"])
        yield page
    finally:
        context.close()
        stack.supervisor.stop_requests = 2
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """The supervisor takes these for itself, for the rest of its process's life."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sign_in(page: Page, url: str, password: str) -> None:
    page.goto(url)
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_every_card_runs_and_breaks_its_pattern_and_says_that_it_held(shop: Page) -> None:
    every = list(patterns())
    run(shop, every)
    break_(shop, [pattern for pattern in every if pattern.slug not in BREAK_ALONE])
    for slug in BREAK_ALONE:
        break_(shop, [pattern for pattern in every if pattern.slug == slug])


def run(page: Page, chosen: Iterable[Pattern]) -> None:
    play(page, "Run it", {pattern.slug: pattern.run for pattern in chosen})


def break_(page: Page, chosen: Iterable[Pattern]) -> None:
    play(page, "Break it", {pattern.slug: pattern.break_ for pattern in chosen})


def play(page: Page, button: str, acts: dict[str, Act]) -> None:
    for slug in acts:
        page.locator(f"#pattern-{slug}").get_by_role("button", name=button).click()
    for slug, act in acts.items():
        seen = page.locator(f"#pattern-{slug} .outcome .seen")
        expect(seen, f"{button}: {slug}").to_have_class(re.compile("seen-(ok|bad)"), timeout=PATIENCE)
        held = "seen-ok" in (seen.get_attribute("class") or "")
        assert held == (act.refusal is None) or slug in MEASURE_TIME, f"{button}: {slug}: {seen.inner_text()}"
