"""What every page must have. The addresses are those of the shop; a new page belongs in the list."""

from collections.abc import Callable, Iterator

from django.contrib.auth.models import User
from playwright.sync_api import Page

from apps.jobs.models import Job

PHONE = {"width": 390, "height": 844}
ADDRESSES = [
    "/",
    "/orders/",
    "/orders/place/",
    "/catalog/",
    "/uploads/",
    "/uploads/new/",
    "/reports/",
    "/reports/new/",
    "/jobs/",
    "/jobs/?over=day",
    "/patterns/unique/run/seen/",
    "/accounts/password-reset/",
]
UNNAMED_FIELDS = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
    .filter(field => !field.labels.length && !field.ariaLabel).map(field => field.name)"""


def every_page(page: Page) -> Iterator[str]:
    job = Job.objects.create(task="tasks.a_task_with_a_rather_long_name_that_has_to_wrap", queue="default")
    for address in [*ADDRESSES, f"/jobs/{job.pk}/"]:
        page.goto(address)
        yield address


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada, viewport=PHONE)
    widths = {address: page.evaluate("document.documentElement.scrollWidth") for address in every_page(page)}
    assert {address: width for address, width in widths.items() if width > PHONE["width"]} == {}


def test_a_page_has_a_title_of_its_own_and_one_main_heading(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada)
    titles = []
    for address in every_page(page):
        titles.append(page.title())
        assert titles[-1].endswith("· Nightshift"), address
        assert page.locator("h1").count() == 1, address
    assert len(set(titles)) == len(titles) - 1, "the dashboard of the hour and of the day alone are one page"


def test_every_field_has_a_label(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada)
    unnamed = {address: page.evaluate(UNNAMED_FIELDS) for address in every_page(page)}
    assert {address: fields for address, fields in unnamed.items() if fields} == {}


def test_no_page_needs_an_inline_script_or_style(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada)
    # A chart's library places what it draws; it does so by script, which a policy for inline styles allows.
    inline = "[style]:not(.uplot *, .uplot), style, script:not([src]), [onclick], [onchange], [onsubmit]"
    counts = {address: page.locator(inline).count() for address in every_page(page)}
    assert {address: count for address, count in counts.items() if count} == {}


def test_the_dark_look_is_dark_and_the_light_one_light(open_page: Callable[..., Page], ada: User) -> None:
    def lightness(scheme: str) -> int:
        """From 0, black, to 765, white."""
        page = open_page(ada, color_scheme=scheme)
        page.goto("/")
        return sum(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"))

    assert lightness("dark") < 120
    assert lightness("light") > 650


def test_the_first_tab_stop_skips_to_the_content(open_page: Callable[..., Page], ada: User) -> None:
    page = open_page(ada)
    page.goto("/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
