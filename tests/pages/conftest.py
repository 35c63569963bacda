"""A real browser, because whether a page can be used is not in its HTML.

pytest reads this before Django is set up, so Django's imports are where they are used.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, sync_playwright

if TYPE_CHECKING:
    from django.contrib.auth.models import User
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
PASSWORD = "a-password-for-tests"
# For this process alone: a server has to do without.
ALLOW_ASYNC = "DJANGO_ALLOW_ASYNC_UNSAFE"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Closed after the last page: its event loop runs in this thread, where nobody else could run one.

    Meanwhile Django takes the tests for asynchronous code, and gives them connections of their own. None is left idle
    on either side: `site` ends all sessions but its own, which would fail the next test without a browser.
    """
    from django.db import connections

    if not CHROMIUM.exists():
        sentence = f"These tests need a browser, and {CHROMIUM} is not there. Install Chromium, or set CHROMIUM."
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    connections.close_all()
    with pytest.MonkeyPatch.context() as environment, sync_playwright() as playwright:
        environment.setenv(ALLOW_ASYNC, "1")
        # Chromium's sandbox refuses to work for root, and these pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
        connections.close_all()


@pytest.fixture
def ada(db: None) -> "User":
    """A member of staff who may look at everything, and place orders."""
    from django.contrib.auth.models import Permission
    from django.db.models import Q

    from tests.cast import shopkeeper

    ada = shopkeeper("ada")
    ada.user_permissions.set(Permission.objects.filter(Q(codename__startswith="view_") | Q(codename="add_order")))
    return ada


@dataclass
class Site:
    url: str


@pytest.fixture(scope="package")
def web() -> Iterator[Site]:
    """The server of the Procfile, in a thread: what pages are made for must be able to stream."""
    import uvicorn
    from django.db import connections

    from apps.local.waiting import wait_for
    from config.asgi import application

    # Each request has a thread of its own, which must not keep its connection.
    kept_for = connections.settings["default"]["CONN_MAX_AGE"]
    connections.settings["default"]["CONN_MAX_AGE"] = 0
    server = uvicorn.Server(
        uvicorn.Config(application, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, name="web", daemon=True)
    thread.start()
    assert wait_for(lambda: server.started, 10)
    host, port = server.servers[0].sockets[0].getsockname()
    yield Site(f"http://{host}:{port}")
    server.should_exit = True
    thread.join(10)
    connections.settings["default"]["CONN_MAX_AGE"] = kept_for


@pytest.fixture
def site(transactional_db: None, web: Site) -> Iterator[Site]:
    """Looks into this test's database, so what the test writes has to be committed.

    A page that was closed is still being made: at the end its sessions are ended, or the tables could not be emptied.
    """
    from django.db import connection

    from apps.jobs.dashboard import snapshot

    snapshot.forget()
    yield web
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens pages that share nothing: `open_page(ada, color_scheme="dark")`; of a visitor without a user.

    An error in a page's script fails the test, and so does what the site's content policy has refused.
    """
    contexts: list[BrowserContext] = []
    errors: list[Error | str] = []

    def note(error: Error) -> None:
        errors.append(error)

    def note_refusal(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text:
            errors.append(said.text)

    def open_one(user: "User | None" = None, **options: Any) -> Page:
        context = browser.new_context(base_url=site.url, **options)
        contexts.append(context)
        if user:
            context.add_cookies([_session_of(user, site.url)])
        page = context.new_page()
        page.on("pageerror", note)
        page.on("console", note_refusal)
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
