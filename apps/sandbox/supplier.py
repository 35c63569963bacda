"""The supplier: takes products, tells what changed at its side, and knows what is in stock."""

import re
import secrets
from collections.abc import Callable
from functools import wraps
from random import Random
from typing import Any, NoReturn, ParamSpec

from flask import Blueprint, Response, abort, jsonify, make_response, request

from apps.sandbox import gate
from apps.sandbox.faults import Mode
from apps.sandbox.store import Document, Store
from apps.sandbox.world import world

supplier = Blueprint("supplier", __name__, url_prefix="/supplier")

# A product with such a number never passes the supplier's checks, however often it is sent.
REFUSED = "BAD-"
# What the supplier has to tell at first: a few pages.
CHANGES_AT_FIRST = 120
PRODUCTS = 40
NAMES = ("Desk lamp", "Notebook", "Teapot", "Wool blanket", "Pocket radio", "Oil pencil", "Kite", "Compass")

P = ParamSpec("P")


def endpoint(what: str) -> Callable[[Callable[P, Document]], Callable[P, Response]]:
    """Make a function that returns a document into a view with the supplier's key, limit, faults and counts."""

    def wrap(work: Callable[P, Document]) -> Callable[P, Response]:
        @wraps(work)
        def view(*args: P.args, **kwargs: P.kwargs) -> Response:
            trouble = gate.enter("supplier", what)
            _check_key()
            _check_allowance()
            gate.hold("supplier", trouble)
            answer = jsonify(work(*args, **kwargs))
            return gate.leave(trouble, gate.broken() if trouble.has(Mode.ERROR_AFTER) else answer)

        return view

    return wrap


def _check_key() -> None:
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {world().supplier_api_key}".encode()):
        _refuse(401, "The key is not known here.")


def _check_allowance() -> None:
    if wait := world().allowance.take():
        world().store.count("refused", "supplier", "over its rate limit")
        abort(gate.too_many(wait))


def _refuse(status: int, message: str) -> NoReturn:
    abort(make_response(jsonify({"error": {"message": message}}), status))


@supplier.put("/products/<sku>")
@endpoint("products.put")
def put_product(sku: str) -> Document:
    """Take a product as it is now. A PUT: the same product a second time is the same product."""
    sent = request.get_json(silent=True)
    if not isinstance(sent, dict):
        _refuse(400, "The body is not a JSON object.")
    if sku.startswith(REFUSED):
        _refuse(422, f"{sku} is not a number that we can list.")
    store = world().store
    with store.transaction():
        known = store.get("product", sku) or {"id": sku, "pushes": 0}
        product = known | {"product": sent, "pushes": known["pushes"] + 1}
        store.put("product", product)
    return {"sku": sku, "accepted": True}


@supplier.get("/stock/<sku>")
@endpoint("stock.get")
def get_stock(sku: str) -> Document:
    if sku.startswith(REFUSED):
        _refuse(404, f"{sku} is not a number that we list.")
    return {"sku": sku, "stock": Random(sku).randrange(200)}


@supplier.get("/changes")
@endpoint("changes.list")
def list_changes() -> Document:
    """One page of changes after the cursor, the oldest first. At the end the cursor stays where it is."""
    start = _number("cursor", "0", range(10**9))
    limit = _number("limit", "50", range(1, 101))
    end = published(world().store)
    changes = [change(version) for version in range(start + 1, min(start + limit, end) + 1)]
    reached = start + len(changes)
    return {"changes": changes, "next_cursor": str(reached), "has_more": reached < end}


def _number(name: str, default: str, allowed: range) -> int:
    given = request.args.get(name) or default
    if not re.fullmatch(r"\d{1,10}", given) or int(given) not in allowed:
        _refuse(400, f"The {name} is not one of ours.")
    return int(given)


def change(version: int) -> dict[str, Any]:
    """The change with this number, the same each time it is asked for."""
    rng = Random(version)
    number = rng.randrange(PRODUCTS)
    fields = {
        "name": f"{NAMES[number % len(NAMES)]} no. {number + 1}",
        "price_minor": rng.randrange(300, 9000, 5),
        "currency": "eur",
        "stock": rng.randrange(200),
        "active": rng.random() < 0.95,
    }
    return {"sku": f"NS-{number + 1:04d}", "version": version, "fields": fields}


def published(store: Store) -> int:
    """How many changes there are to read."""
    feed = store.get("feed", "changes")
    return int(feed["published"]) if feed else CHANGES_AT_FIRST


def publish(store: Store, number: int) -> int:
    """Let so many more things change at the supplier's side; return how many changes there are now."""
    with store.transaction():
        total = published(store) + number
        store.put("feed", {"id": "changes", "published": total})
    return total
