"""The pretended supplier, over real HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from django.conf import settings

from apps.sandbox.allowance import Allowance
from apps.sandbox.client import HEADER, Sandbox
from apps.sandbox.testing import running_sandbox

LAMP = {"name": "Desk lamp", "price_minor": 4900}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def ask(sandbox: Sandbox, method: str, path: str, **body: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {settings.SUPPLIER_API_KEY}"}
    return requests.request(method, f"{sandbox.url}/supplier{path}", headers=headers, timeout=5, **body)  # type: ignore[arg-type]


def test_a_product_that_is_sent_twice_is_one_product(sandbox: Sandbox) -> None:
    for price in (4900, 5200):
        assert ask(sandbox, "PUT", "/products/NS-0001", json=LAMP | {"price_minor": price}).ok
    assert sandbox.products() == {
        "NS-0001": {"id": "NS-0001", "product": LAMP | {"price_minor": 5200}, "pushes": 2},
    }


def test_some_products_never_pass(sandbox: Sandbox) -> None:
    refused = ask(sandbox, "PUT", "/products/BAD-1", json=LAMP)
    assert refused.status_code == 422
    assert refused.json() == {"error": {"message": "BAD-1 is not a number that we can list."}}
    assert sandbox.products() == {}


def test_a_product_that_is_not_json_is_refused(sandbox: Sandbox) -> None:
    assert ask(sandbox, "PUT", "/products/NS-0001", data=b"lamp").status_code == 400


def test_a_stranger_is_refused(sandbox: Sandbox) -> None:
    assert requests.get(f"{sandbox.url}/supplier/changes", timeout=5).status_code == 401


def test_changes_come_in_pages_until_the_cursor_stands_still(sandbox: Sandbox) -> None:
    seen, cursor, more = [], "", True
    while more:
        page = ask(sandbox, "GET", f"/changes?cursor={cursor}&limit=50").json()
        seen += [change["version"] for change in page["changes"]]
        cursor, more = page["next_cursor"], page["has_more"]
    assert seen == list(range(1, 121))
    assert ask(sandbox, "GET", f"/changes?cursor={cursor}").json() == {
        "changes": [],
        "next_cursor": cursor,
        "has_more": False,
    }


def test_the_same_page_says_the_same_twice_and_new_changes_come_after_it(sandbox: Sandbox) -> None:
    page = ask(sandbox, "GET", "/changes?cursor=100").json()
    assert sandbox.publish_changes(5) == 125
    again = ask(sandbox, "GET", "/changes?cursor=100").json()
    assert again["changes"][:20] == page["changes"]
    assert [change["version"] for change in again["changes"][20:]] == [121, 122, 123, 124, 125]
    assert set(page["changes"][0]["fields"]) == {"name", "price_minor", "currency", "stock", "active"}


@pytest.mark.parametrize("query", ["cursor=tomorrow", "limit=0x10", "limit=101", "cursor=-1", "limit=0"])
def test_a_cursor_or_limit_of_somebody_else_is_refused(sandbox: Sandbox, query: str) -> None:
    assert ask(sandbox, "GET", f"/changes?{query}").status_code == 400


def test_stock_is_the_same_each_time_and_unknown_for_a_refused_number(sandbox: Sandbox) -> None:
    assert ask(sandbox, "GET", "/stock/NS-0001").json() == ask(sandbox, "GET", "/stock/NS-0001").json()
    assert ask(sandbox, "GET", "/stock/BAD-1").status_code == 404


def test_past_its_limit_the_supplier_says_when_to_come_back(sandbox: Sandbox) -> None:
    sandbox.limit_supplier(2, seconds=60)
    answers = [ask(sandbox, "GET", "/stock/NS-0001") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 58 <= int(answers[2].headers["Retry-After"]) <= 60
    sandbox.limit_supplier(None)
    assert ask(sandbox, "GET", "/stock/NS-0001").ok


@pytest.mark.parametrize("asked", [{"requests": "many"}, {"requests": -1}, {"seconds": [60]}, {"number": 1e9}])
def test_a_switch_that_is_no_number_is_refused_with_a_sentence(sandbox: Sandbox, asked: dict[str, Any]) -> None:
    switch = "changes" if "number" in asked else "limit"
    refused = requests.post(f"{sandbox.url}/_/supplier/{switch}", json=asked, headers={HEADER: "1"}, timeout=5)
    assert refused.status_code == 422
    assert "has to be a number" in refused.json()["error"]


def test_the_limit_is_a_sliding_window() -> None:
    now = [0.0]
    allowance = Allowance(clock=lambda: now[0])
    allowance.set(2, seconds=10)
    waits = []
    for moment in (0, 4, 5, 10, 11, 14):
        now[0] = moment
        waits.append(allowance.take())
    assert waits == [0, 0, 5, 0, 3, 0]


@pytest.mark.parametrize("mode", ["down", "cut"])
def test_a_lost_connection_is_no_answer(sandbox: Sandbox, mode: str) -> None:
    sandbox.fault("supplier", mode, count=1)
    with pytest.raises(requests.RequestException):
        ask(sandbox, "PUT", "/products/NS-0001", json=LAMP)
    assert list(sandbox.products()) == (["NS-0001"] if mode == "cut" else [])


def test_a_failure_after_the_work_has_done_the_work(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "error_after", count=1)
    assert ask(sandbox, "PUT", "/products/NS-0001", json=LAMP).status_code == 500
    assert sandbox.products()["NS-0001"]["pushes"] == 1


def test_a_held_request_outlasts_its_caller(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "hang", count=1)
    with pytest.raises(requests.Timeout):
        requests.get(
            f"{sandbox.url}/supplier/changes",
            headers={"Authorization": f"Bearer {settings.SUPPLIER_API_KEY}"},
            timeout=0.2,
        )
