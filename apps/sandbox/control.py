"""The sandbox's own endpoints, under `/_/`: switches and counts, for this machine only."""

from typing import Any, NoReturn

from flask import Blueprint, Response, abort, jsonify, make_response, request

from apps.sandbox.client import HEADER
from apps.sandbox.faults import Fault
from apps.sandbox.store import Store
from apps.sandbox.stripe import charges_by_order
from apps.sandbox.supplier import publish
from apps.sandbox.world import world

control = Blueprint("control", __name__)

LOOPBACK = ("127.0.0.1", "::1")


@control.before_request
def refuse_strangers() -> None:
    """Only callers on this machine; a POST needs our header, or must come from our own page.

    The host's name is checked as well, or another site could point its own name at this address and look in.
    """
    if request.remote_addr not in LOOPBACK or request.host.rpartition(":")[0] not in (*LOOPBACK, "localhost", "[::1]"):
        refuse(403, "The sandbox is controlled from its own machine only.")
    own_page = request.headers.get("Origin") == request.host_url.rstrip("/")
    if request.method == "POST" and HEADER not in request.headers and not own_page:
        refuse(403, f"Send the header {HEADER}, or use the sandbox's own page.")


def refuse(status: int, message: str) -> NoReturn:
    abort(make_response(jsonify({"error": message}), status))


def _asked() -> dict[str, Any]:
    asked = request.get_json(silent=True)
    return asked if isinstance(asked, dict) else {}


def _number(name: str, default: float, most: float) -> float:
    """Of a body that a person may have typed."""
    given = _asked().get(name) or default
    if not isinstance(given, (int, float)) or not 0 <= given <= most:
        refuse(422, f"{name} has to be a number from 0 to {most}.")
    return given


@control.get("/_/faults")
def show_faults() -> Response:
    return jsonify(world().switchboard.active())


@control.post("/_/faults")
def switch_fault() -> Response:
    asked = _asked()
    try:
        world().switchboard.switch(str(asked.get("party", "")), Fault.parse(asked))
    except ValueError as error:
        refuse(422, str(error))
    return jsonify(world().switchboard.active())


@control.post("/_/clear")
def clear_faults() -> Response:
    world().switchboard.clear(_asked().get("party"))
    return jsonify(world().switchboard.active())


@control.get("/_/counts")
def show_counts() -> Response:
    return jsonify(counts(world().store))


def counts(store: Store) -> dict[str, Any]:
    """Every tally by party, and the charges by order, all of one moment."""
    with store.transaction():
        books = {book: store.counted(book) for book in ("asked", "faults", "refused", "replayed", "webhooks")}
        return books | {"charges": charges_by_order(store)}


@control.get("/_/charges/<order_id>")
def show_charges(order_id: str) -> Response:
    """The charges that succeeded for one order, the newest first."""
    return jsonify(world().store.find("charge", {"metadata.order_id": order_id, "status": "succeeded"}))


@control.get("/_/events")
def show_events() -> Response:
    return jsonify(world().store.find("event", limit=500))


@control.post("/_/events/<event_id>/send")
def send_event_again(event_id: str) -> Response:
    event = world().store.get("event", event_id)
    if event is None:
        refuse(404, f"There is no event {event_id}.")
    return jsonify({"accepted": world().webhooks.send_again(event)})


@control.post("/_/expire-keys")
def expire_idempotency_keys() -> Response:
    world().store.forget("idempotency_key")
    return jsonify({})


@control.post("/_/webhooks")
def send_webhooks_to() -> Response:
    """Send Stripe's events to another address from now on; an empty one sends them to nobody."""
    world().webhooks.url = str(_asked().get("url") or "")
    return jsonify({"url": world().webhooks.url})


@control.get("/_/products")
def show_products() -> Response:
    """What the supplier was sent: `id` (the sku), `product` (as sent last) and `pushes` (how often)."""
    return jsonify(world().store.find("product"))


@control.post("/_/supplier/limit")
def limit_supplier() -> Response:
    """`requests` in `seconds`; no requests: no limit."""
    requests = None if _asked().get("requests") is None else int(_number("requests", 0, 1_000_000))
    world().allowance.set(requests, _number("seconds", 60, 86_400))
    return jsonify({"requests": world().allowance.requests, "seconds": world().allowance.seconds})


@control.post("/_/supplier/changes")
def publish_changes() -> Response:
    return jsonify({"published": publish(world().store, int(_number("number", 1, 10_000)))})


@control.get("/_/mail")
def show_mail() -> Response:
    return jsonify(world().mailbox.messages())


@control.post("/_/reset")
def reset() -> Response:
    """Forget everything and switch everything off, as if the sandbox had just been started for the first time."""
    here = world()
    here.switchboard.clear()
    here.allowance.set(None)
    here.mailbox.empty()
    here.store.forget_everything()
    return jsonify({})
