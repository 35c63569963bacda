"""Placing an order as a person does."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from tests.shop import a_customer, a_product


@pytest.fixture(autouse=True)
def shop(db: None) -> None:
    a_customer("cleo")
    a_product()


@pytest.fixture(params=["with a script", "without"])
def page(request: pytest.FixtureRequest, open_page: Callable[..., Page], ada: User) -> Page:
    page = open_page(ada, java_script_enabled=request.param == "with a script")
    page.goto("/orders/place/")
    return page


def place(page: Page, sku: str) -> None:
    page.get_by_label("Product").first.fill(sku)
    page.get_by_label("Customer").select_option(label="cleo")
    page.get_by_role("button", name="Place and charge").click()


def test_a_product_is_ordered_by_its_sku(page: Page) -> None:
    place(page, "NS-0001")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Order NS-")
    expect(page.get_by_role("row", name="Product NS-0001")).to_contain_text("14.50 EUR")


def test_a_sku_that_nobody_sells_comes_back_with_a_sentence_and_the_rest_of_the_form(page: Page) -> None:
    place(page, "NS-9999")
    expect(page.get_by_text("We do not sell NS-9999.")).to_be_visible()
    expect(page.get_by_label("Product").first).to_have_value("NS-9999")
    place(page, "NS-0001")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Order NS-")


def test_a_chosen_product_says_its_name_and_price(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada)
    page.goto("/orders/place/")
    field, said = page.get_by_label("Product").nth(1), page.locator("output").nth(1)
    field.fill("NS-0001")
    expect(said).to_have_text("Product NS-0001, 14.50 EUR")
    field.fill("NS-000")
    expect(said).to_be_empty()
