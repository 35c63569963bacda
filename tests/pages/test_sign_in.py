from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Page, expect

from tests.pages.conftest import PASSWORD


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
