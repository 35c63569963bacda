"""What a browser and a script are told that send more than the shop takes, by the server of the Procfile."""

from collections.abc import Iterator

import pytest
import requests
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tests.pages.conftest import Site

MEGABYTE = b"x" * 1024**2
# Also what is no answer, but a connection that hangs, fails the test.
PATIENCE = 60


@pytest.fixture
def cookies(client: Client, ada: User) -> dict[str, str]:
    client.force_login(ada)
    return {name: morsel.value for name, morsel in client.cookies.items()}


def send(site: Site, cookies: dict[str, str], body: bytes | Iterator[bytes]) -> requests.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    address = f"{site.url}{reverse('uploads:new')}"
    return requests.post(address, body, headers=headers, cookies=cookies, timeout=PATIENCE)


def test_a_browser_is_shown_that_its_file_is_too_large(site: Site, cookies: dict[str, str]) -> None:
    answer = send(site, cookies, MEGABYTE * 30)
    assert answer.status_code == 413
    assert "This file is too large: at most 10 MB are allowed." in answer.text


def test_a_script_that_does_not_say_how_much_is_coming_is_stopped(site: Site, cookies: dict[str, str]) -> None:
    answer = send(site, cookies, iter([MEGABYTE] * 30))
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "text/plain; charset=utf-8")
    assert "a request may have 10 MB at most" in answer.text
