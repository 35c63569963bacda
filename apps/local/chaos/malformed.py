"""Every kind of malformed message that is known to stop a stock worker or to vanish in it, as it lies in Redis.

Each carries a marker by which its dead letter is recognised.
"""

import base64
import json
import pickle
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from apps.local.chaos.journal import BadMessage

LETTER = "letter"
# It is unusual and no more: its job ends like any other, one way or the other.
END = "end"

Envelope = dict[str, Any]

# Far more than any message of ours, and small enough to send twice a minute.
BIG = 2_000_000
DEEP = 100_000


def good_envelope(marker: str) -> Envelope:
    """What kombu would write for `tasks.lab_nothing`, but with an argument that the task does not take."""
    job_id = str(uuid4())
    return {
        "body": encoded([[], {"marker": marker}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "tasks.lab_nothing",
            "id": job_id,
            "root_id": job_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "marker": marker,
        },
        "properties": {
            "correlation_id": job_id,
            "reply_to": marker,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "default"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }


def encoded(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def with_header(name: str, value: Any) -> Callable[[str], Envelope]:
    def build(marker: str) -> Envelope:
        envelope = good_envelope(marker)
        envelope["headers"][name] = value
        return envelope

    return build


def without_header(name: str) -> Callable[[str], Envelope]:
    def build(marker: str) -> Envelope:
        envelope = good_envelope(marker)
        del envelope["headers"][name]
        return envelope

    return build


def with_property(name: str, value: Any) -> Callable[[str], Envelope]:
    def build(marker: str) -> Envelope:
        envelope = good_envelope(marker)
        envelope["properties"][name] = value
        return envelope

    return build


def without_property(name: str) -> Callable[[str], Envelope]:
    def build(marker: str) -> Envelope:
        envelope = good_envelope(marker)
        del envelope["properties"][name]
        return envelope

    return build


def with_body(body: Callable[[str], str], **fields: Any) -> Callable[[str], Envelope]:
    return lambda marker: {**good_envelope(marker), "body": body(marker), **fields}


def without_properties(marker: str) -> Envelope:
    envelope = good_envelope(marker)
    del envelope["properties"]
    return envelope


def unknown_task(marker: str) -> Envelope:
    return with_header("task", f"tasks.no_such_task_{marker}")(marker)


# Name → the item, and what must become of it.
KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "envelope is not JSON": (lambda marker: f"{{not json {marker}", LETTER),
    "envelope is a list": (lambda marker: json.dumps([marker]), LETTER),
    "envelope is a number": (lambda marker: str(int(marker, 16)), LETTER),
    "envelope without properties": (without_properties, LETTER),
    "no delivery tag": (without_property("delivery_tag"), LETTER),
    "no delivery info": (without_property("delivery_info"), LETTER),
    "body is not base64": (with_body(lambda marker: f"%%% {marker}"), LETTER),
    "unknown body encoding": (with_property("body_encoding", "rot13"), LETTER),
    "body is a mapping": (with_body(lambda marker: encoded({"marker": marker})), LETTER),
    "body has two parts": (with_body(lambda marker: encoded([[], {"marker": marker}])), LETTER),
    "body is not JSON": (with_body(lambda marker: b64(f"{{not json {marker}".encode())), LETTER),
    "body is nested 100,000 deep": (
        with_body(lambda marker: b64(f'["{marker}",'.encode() + b"[" * DEEP + b"]" * DEEP + b"]")),
        LETTER,
    ),
    "body is a pickle": (
        with_body(
            lambda marker: b64(pickle.dumps(marker)),
            **{"content-type": "application/x-python-serialize", "content-encoding": "binary"},
        ),
        LETTER,
    ),
    "unknown content type": (
        with_body(lambda marker: b64(marker.encode()), **{"content-type": "application/x-nonsense"}),
        LETTER,
    ),
    "unknown compression": (with_header("compression", "application/x-nonsense"), LETTER),
    "headers are null": (lambda marker: {**good_envelope(marker), "headers": None}, LETTER),
    "no id": (without_header("id"), LETTER),
    "no task": (without_header("task"), LETTER),
    "task is null": (with_header("task", None), LETTER),
    "task is a list": (with_header("task", ["tasks.lab_nothing"]), LETTER),
    "task is unknown": (unknown_task, LETTER),
    "time limit is garbage": (with_header("timelimit", "soon"), LETTER),
    "retries are garbage": (with_header("retries", "many"), LETTER),
    "eta is garbage": (with_header("eta", "tomorrow"), LETTER),
    "expires is garbage": (with_header("expires", "yesterday"), LETTER),
    "expired long ago": (with_header("expires", "2001-01-01T00:00:00+00:00"), LETTER),
    "arguments are a string": (
        with_body(lambda marker: encoded(["args", {"marker": marker}, {}])),
        LETTER,
    ),
    "keyword arguments are a list": (with_body(lambda marker: encoded([[], [marker], {}])), LETTER),
    "wrong arguments": (good_envelope, LETTER),
    "NUL in an argument": (with_body(lambda marker: encoded([[], {"marker": f"{marker}\x00"}, {}])), LETTER),
    "lone surrogate in an argument": (
        with_body(lambda marker: encoded([[], {"marker": f"{marker}\ud800"}, {}])),
        LETTER,
    ),
    "argument of two megabytes": (
        with_body(lambda marker: encoded([[], {"marker": marker, "big": "x" * BIG}, {}])),
        LETTER,
    ),
    "options are null": (with_body(lambda _: encoded([[], {}, None])), END),
    "id is no UUID": (lambda marker: with_header("id", f"job {marker}")(marker), LETTER),
}


def malformed(kind: str) -> tuple[str, BadMessage]:
    """One item as it is pushed to a queue's list, and what must become of it."""
    build, becomes = KINDS[kind]
    marker = uuid4().hex[:15]
    if kind == "envelope is a number":
        # Its digits are all it has.
        digits = str(int(marker, 16))
        return digits, BadMessage(kind, digits, becomes)
    item = build(marker)
    job_id = str((item.get("headers") or {}).get("id", "")) if isinstance(item, dict) else ""
    text = item if isinstance(item, str) else json.dumps(item)
    return text, BadMessage(kind, marker, becomes, job_id if becomes == END else "")
