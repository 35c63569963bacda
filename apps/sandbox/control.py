"""The sandbox's own endpoints, under `/_/`: switches and counts, for this machine only."""

from typing import Any

from flask import Blueprint, Response, abort, jsonify, make_response, request

from apps.sandbox.faults import Fault
from apps.sandbox.stripe import charges_by_order
from apps.sandbox.world import world

control = Blueprint("control", __name__)

LOOPBACK = ("127.0.0.1", "::1")
# A page of another site cannot send this header without asking first, and nobody here answers such a question.
HEADER = "X-Sandbox-Control"


@control.before_request
def refuse_strangers() -> None:
    """Only callers on this machine; a POST needs our header, or must come from our own page.

    The host's name is checked as well, or another site could point its own name at this address and look in.
    """
    if request.remote_addr not in LOOPBACK or request.host.rpartition(":")[0] not in (*LOOPBACK, "localhost", "[::1]"):
        _refuse(403, "The sandbox is controlled from its own machine only.")
    own_page = request.headers.get("Origin") == request.host_url.rstrip("/")
    if request.method == "POST" and HEADER not in request.headers and not own_page:
        _refuse(403, f"Send the header {HEADER}, or use the sandbox's own page.")


def _refuse(status: int, message: str) -> None:
    abort(make_response(jsonify({"error": message}), status))


def _asked() -> dict[str, Any]:
    asked = request.get_json(silent=True)
    return asked if isinstance(asked, dict) else {}


@control.get("/_/faults")
def show_faults() -> Response:
    return jsonify(world().switchboard.active())


@control.post("/_/faults")
def switch_fault() -> Response:
    asked = _asked()
    try:
        world().switchboard.switch(str(asked.get("party", "")), Fault.parse(asked))
    except ValueError as error:
        _refuse(422, str(error))
    return jsonify(world().switchboard.active())


@control.post("/_/clear")
def clear_faults() -> Response:
    world().switchboard.clear(_asked().get("party"))
    return jsonify(world().switchboard.active())


@control.get("/_/counts")
def show_counts() -> Response:
    store = world().store
    with store.transaction():
        return jsonify(
            {
                **{book: store.counted(book) for book in ("asked", "faults", "replayed", "webhooks")},
                "charges": charges_by_order(store),
            }
        )


@control.get("/_/charges/<order_id>")
def show_charges(order_id: str) -> Response:
    """The charges that succeeded for one order, the newest first."""
    return jsonify(world().store.find("charge", metadata__order_id=order_id, status="succeeded"))


@control.get("/_/events")
def show_events() -> Response:
    return jsonify(world().store.find("event", limit=500))


@control.post("/_/events/<event_id>/send")
def send_event_again(event_id: str) -> Response:
    event = world().store.get("event", event_id)
    if event is None:
        abort(make_response(jsonify({"error": f"There is no event {event_id}."}), 404))
    return jsonify({"accepted": world().webhooks.send_again(event)})


@control.post("/_/expire-keys")
def expire_idempotency_keys() -> Response:
    world().store.forget("idempotency_key")
    return jsonify({})


@control.post("/_/reset")
def reset() -> Response:
    """Forget everything and switch everything off, as if the sandbox had just been started for the first time."""
    world().switchboard.clear()
    world().store.forget_everything()
    return jsonify({})
