"""The envelope that kombu puts around a message in Redis, and what can be read of one that kombu cannot read.

Problem. An envelope that is not a JSON object, or that lacks what kombu looks for in it, raises inside kombu, before
any hook of Celery's: the worker exits or reconnects, and the message is lost or comes back for ever.

Guarantee. Such an item becomes an envelope of the type `UNREADABLE`, with what was in the queue as its body. The
consumer makes a dead letter of it.

Not guaranteed. More than that it arrives: whose job it was is not known any more.
"""

import base64
import json
from typing import Any
from uuid import uuid4

from kombu.utils.json import dumps

UNREADABLE = "application/x-unreadable"
# How often the message was delivered before: RabbitMQ's own header, which our other transports set as well.
DELIVERIES = "x-delivery-count"
PERSISTENT = 2
# What a dead letter shows of it is for a person; the rest may be megabytes.
SHOWN = 20_000


def sealed(message: Any, queue: str, priority: int | None) -> str:
    """Celery's task message as kombu would put it into the list of a queue."""
    body = base64.b64encode(dumps(message.body).encode()).decode()
    properties = {
        **message.properties,
        "delivery_mode": PERSISTENT,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": priority or 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    envelope = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": message.headers,
        "properties": properties,
    }
    return str(dumps(envelope))


def readable(item: bytes | str, queue: str) -> bytes | str:
    """The item itself, or an envelope around it that says what is wrong with it, and where it lay."""
    _, wrong = _opened(item)
    return item if wrong is None else json.dumps(_around(item, wrong, queue))


def opened(item: bytes | str, queue: str, tag: str | None) -> dict[str, Any]:
    """The envelope that the item is, or that is put around it, under the tag by which it is noted. It is read once."""
    envelope, wrong = _opened(item)
    if wrong is not None:
        envelope = _around(item, wrong, queue)
    if tag is not None:
        envelope["properties"]["delivery_tag"] = tag
    return envelope


def _opened(item: bytes | str) -> tuple[dict[str, Any], str | None]:
    try:
        envelope = json.loads(item)
    except (ValueError, RecursionError) as exc:
        return {}, f"The envelope is not JSON: {exc}"
    return envelope, _what_is_wrong(envelope)


def _what_is_wrong(envelope: Any) -> str | None:
    if not isinstance(envelope, dict):
        return "The envelope is not an object."
    if not isinstance(envelope.get("headers"), dict | None):
        return "The envelope's headers are not an object."
    properties = envelope.get("properties")
    if not isinstance(properties, dict) or not _is_tag(properties.get("delivery_tag")):
        return "The envelope has no delivery tag."
    if not _says_where(properties.get("delivery_info")):
        return "The envelope does not say where it was delivered to."
    return _what_is_wrong_with_body(envelope.get("body"), properties.get("body_encoding"))


def _is_tag(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _says_where(info: Any) -> bool:
    """kombu gives a message back by these, if nobody acknowledges it."""
    named = [info.get("exchange"), info.get("routing_key")] if isinstance(info, dict) else []
    return any(named) and all(isinstance(name, str) for name in named)


def _what_is_wrong_with_body(body: Any, encoding: Any) -> str | None:
    if not isinstance(body, str):
        return "The envelope has no body."
    if encoding not in (None, "utf-8", "base64"):
        return f"The body's encoding {encoding!r} is unknown."
    if encoding == "base64":
        try:
            base64.b64decode(body, validate=True)
        except ValueError as exc:
            return f"The body is not base64: {exc}"
    return None


def deliveries_before(headers: Any) -> int:
    """0 as well for what a stranger has written there."""
    count = headers.get(DELIVERIES) if isinstance(headers, dict) else None
    return count if isinstance(count, int) else 0


def count_deliveries(envelope: dict[str, Any], before: int) -> None:
    if isinstance(envelope.get("headers"), dict):
        envelope["headers"][DELIVERIES] = before


def _around(item: bytes | str, reason: str, queue: str) -> dict[str, Any]:
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else item
    return {
        "body": text[:SHOWN],
        "content-type": UNREADABLE,
        "content-encoding": "utf-8",
        "headers": {"reason": reason},
        "properties": {
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_mode": 2,
        },
    }
