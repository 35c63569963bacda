"""The supplier, over HTTP: each call with a time-out, and its refusals in the shop's words.

The address comes from the settings only, and redirects are not followed: no data from outside can choose where this
process connects to.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import requests
from django.conf import settings

from apps.catalog.models import MAX_CURSOR
from apps.jobs.failures import plain
from apps.jobs.retry_after import seconds_to_wait
from apps.jobs.snooze import Snooze

# To connect, and between two bytes of the answer. The supplier answers in well under a second, or not at all.
TIMEOUT_SECONDS = (3.05, 15)
CHANGES_A_PAGE = 50
# Passing troubles beside 5xx: the supplier's own time-out, and "too early".
PASSING = frozenset({408, 425, 429})


class SupplierUnavailable(Exception):
    """The supplier gave no final answer. The same request may be made again."""


class SupplierBusy(Snooze):
    """The supplier did nothing and named the time to come back."""


class SupplierRefused(Exception):
    """The supplier will never accept this request as it stands."""


@dataclass(frozen=True)
class Change:
    """One change at the supplier's side. Versions grow from change to change; `fields` is not checked yet."""

    sku: str
    version: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """The changes after `cursor`, and the cursor after them."""

    cursor: str
    changes: list[Change]
    next_cursor: str
    has_more: bool


def put_product(sku: str, fields: Mapping[str, Any]) -> None:
    """Tell the supplier what a product is now. A second time is the same product again."""
    _ask("PUT", f"products/{quote(sku, safe='')}", json=fields)


def fetch_stock(sku: str) -> int:
    with _readable():
        return int(_ask("GET", f"stock/{quote(sku, safe='')}")["stock"])


def fetch_changes(cursor: str) -> Page:
    answer = _ask("GET", "changes", params={"cursor": cursor, "limit": CHANGES_A_PAGE})
    with _readable():
        changes = [Change(str(one["sku"]), int(one["version"]), dict(one["fields"])) for one in answer["changes"]]
        return Page(cursor, changes, _cursor(answer["next_cursor"]), bool(answer["has_more"]))


def _cursor(told: Any) -> str:
    """One that cannot be saved would be asked for again and again."""
    cursor = str(told)
    if len(cursor) > MAX_CURSOR or plain(cursor) != cursor:
        raise ValueError(f"no cursor: {cursor[:MAX_CURSOR]!r}")
    return cursor


def _ask(method: str, path: str, **what: Any) -> Mapping[str, Any]:
    try:
        response = _session().request(
            method,
            f"{settings.SUPPLIER_API_BASE}/{path}",
            headers={"Authorization": f"Bearer {settings.SUPPLIER_API_KEY}"},
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            **what,
        )
    except requests.RequestException as error:
        raise SupplierUnavailable(f"The supplier gave no answer: {type(error).__name__}.") from error
    _check(response)
    with _readable():
        return dict(response.json())


def _check(response: requests.Response) -> None:
    if response.status_code == 200:
        return
    wait = seconds_to_wait(response.headers.get("Retry-After"))
    passing = response.status_code in PASSING or response.status_code >= 500
    if passing and wait is not None:
        raise SupplierBusy(wait, f"the supplier answered {response.status_code} and named the time")
    if passing:
        raise SupplierUnavailable(f"The supplier answered {response.status_code}.")
    raise SupplierRefused(f"The supplier answered {response.status_code}: {_sentence(response)}")


def _sentence(response: requests.Response) -> str:
    """The supplier's own reason if it gave one, shortened: it ends in a dead letter."""
    try:
        return str(response.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300] or "no reason given"


@contextmanager
def _readable() -> Iterator[None]:
    """A 200 that is not what was agreed: cut off, or from something that stands in between."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SupplierUnavailable("The supplier's answer cannot be read.") from error


@cache
def _session() -> requests.Session:
    """Connections are kept between calls, as many as a worker of the queue `io` has jobs at once."""
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=100))
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=100))
    return session
