"""A real browser, because whether a page can be used is not in its HTML.

pytest reads this before Django is set up, so Django's imports are where they are used.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from pytest_django.live_server_helper import LiveServer

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
PASSWORD = "a-password-for-tests"

# Playwright's own event loop runs in this thread, and Django would take the test for asynchronous code.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Closed after the last page: its event loop runs in this thread, where nobody else could run one."""
    if not CHROMIUM.exists():
        sentence = f"These tests need a browser, and {CHROMIUM} is not there. Install Chromium, or set CHROMIUM."
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to work for root, and these pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def ada(db: None) -> "User":
    from tests.cast import shopkeeper

    return shopkeeper("ada")


@pytest.fixture
def open_page(browser: Browser, live_server: "LiveServer") -> Iterator[Callable[..., Page]]:
    """Opens pages that share nothing: `open_page(ada, color_scheme="dark")`; of a visitor without a user.

    An error in a page's script fails the test.
    """
    contexts: list[BrowserContext] = []
    errors: list[Error] = []

    def note(error: Error) -> None:
        errors.append(error)

    def open_one(user: "User | None" = None, **options: Any) -> Page:
        context = browser.new_context(base_url=live_server.url, **options)
        contexts.append(context)
        if user:
            context.add_cookies([_session_of(user, live_server.url)])
        page = context.new_page()
        page.on("pageerror", note)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


def _session_of(user: "User", url: str) -> Any:
    from django.conf import settings
    from django.test import Client

    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": url}
