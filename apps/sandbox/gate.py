"""How a fault looks over HTTP. Every pretended endpoint is entered and left through here."""

import socket

from flask import Response, abort, jsonify, request

from apps.sandbox.faults import Fault, Mode, Trouble
from apps.sandbox.world import world


def enter(party: str, what: str) -> Trouble:
    """Count the request and meet its trouble: be late, be refused, or go on. What is left is for `hold` and `leave`."""
    here = world()
    here.store.count("asked", party, what)
    trouble = here.switchboard.draw(party, f"{request.method} {request.path}")
    if trouble.latency:
        here.switchboard.wait(trouble.latency)
    if trouble.fault and trouble.fault.mode != Mode.HANG:
        here.store.count("faults", party, trouble.fault.mode)
        _refuse(trouble.fault)
    return trouble


def hold(party: str, trouble: Trouble) -> None:
    """Keep the request, once it owns what it needs. Counted only now, so that a test can wait for it to be held."""
    if trouble.fault and trouble.fault.mode == Mode.HANG:
        world().store.count("faults", party, Mode.HANG)
        world().switchboard.wait(trouble.fault.hold)


def leave(trouble: Trouble, response: Response) -> Response:
    return _cut(response) if trouble.has(Mode.CUT) else response


def broken() -> Response:
    """500 in a form that Stripe's SDK and a person both understand."""
    return _refusal(500, "api_error", "The sandbox was switched to fail.")


def _refuse(fault: Fault) -> None:
    if fault.mode == Mode.DOWN:
        _hang_up()
        abort(Response())
    if fault.mode == Mode.ERROR:
        abort(broken())
    if fault.mode == Mode.RATE_LIMIT:
        abort(too_many(fault.retry_after))


def too_many(retry_after: int) -> Response:
    response = _refusal(429, "rate_limit_error", "Too many requests hit the API too quickly.")
    response.headers["Retry-After"] = str(retry_after)
    return response


def _refusal(status: int, kind: str, message: str) -> Response:
    response = jsonify({"error": {"type": kind, "message": message}})
    response.status_code = status
    return response


def _hang_up() -> None:
    """Close the connection under the server, which then finds nobody to answer."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)


def _cut(response: Response) -> Response:
    """Promise the whole answer and send half of it."""
    whole = response.get_data()
    response.set_data(whole[: len(whole) // 2])
    response.headers["Content-Length"] = str(len(whole))
    return response
