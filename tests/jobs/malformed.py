"""Messages as no producer of ours makes them. Stock workers exit, hang or lose something on most of these."""

import base64
import json
import pickle
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from apps.jobs.envelope import SHOWN
from apps.jobs.models import DeadLetter

DEEP = "[" * 100_000 + "]" * 100_000


def envelope(
    *, body: Any = None, headers: Any = None, properties: Any = None, without: str = "", **fields: Any
) -> dict[str, Any]:
    """A good message to a broker-only task, but for what is given."""
    call = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}] if body is None else body
    text = call if isinstance(call, bytes) else json.dumps(call).encode()
    stock: dict[str, Any] = {"lang": "py", "task": "tasks.lab_nothing_broker_only", "id": str(uuid4()), "retries": 0}
    made = {
        "body": base64.b64encode(text).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**stock, **(headers or {})},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "default"},
            "delivery_mode": 2,
            "delivery_tag": str(uuid4()),
            **(properties or {}),
        },
        **fields,
    }
    if without in made["properties"]:
        del made["properties"][without]
    if without in made["headers"]:
        del made["headers"][without]
    made.pop(without, None)
    return made


def packed(**options: Any) -> bytes:
    return json.dumps(envelope(**options)).encode()


def first_protocol(headers: Any = None, **call: Any) -> bytes:
    """As Celery's first protocol has it: the body says everything, and some of it may be in the headers as well."""
    body = {"task": "tasks.lab_nothing", "id": str(uuid4()), "args": [], "kwargs": {}, **call}
    return json.dumps({**envelope(body=body), "headers": headers or {}}).encode()


# What no worker can run: each must become one dead letter.
UNUSABLE: dict[str, bytes] = {
    "envelope is not JSON": b"{this is not JSON",
    "envelope is not text": b"\xff\xfe\x00\x01",
    "envelope is empty": b"",
    "envelope is a list": b"[1, 2, 3]",
    "envelope is a number": b"42",
    "envelope is too deep": DEEP.encode(),
    "envelope has no properties": packed(without="properties"),
    "envelope has no delivery tag": packed(without="delivery_tag"),
    "envelope has no delivery info": packed(without="delivery_info"),
    "envelope has no body": packed(without="body"),
    "envelope has no headers": packed(without="headers"),
    "headers are null": json.dumps({**envelope(), "headers": None}).encode(),
    "headers are a list": json.dumps({**envelope(), "headers": ["task"]}).encode(),
    "body is not base64": packed().replace(b'"body": "', b'"body": "*'),
    "body has an unknown encoding": packed(properties={"body_encoding": "rot13"}),
    "body is not JSON": packed(body=b"{not JSON"),
    "body is a mapping": packed(body={"args": [], "kwargs": {}}),
    "body has two parts": packed(body=[[], {}]),
    "body is too deep": packed(body=DEEP.encode()),
    "body is pickled": packed(body=pickle.dumps(([], {}, {})), **{"content-type": "application/x-python-serialize"}),
    "content type is unknown": packed(**{"content-type": "application/x-nothing"}),
    "compression is unknown": packed(headers={"compression": "application/x-shrink"}),
    "compressed with nothing": packed(headers={"compression": "application/x-gzip"}),
    "arguments are a mapping": packed(body=[{}, {}, {}]),
    "keyword arguments are a list": packed(body=[[], [], {}]),
    "options are a list": packed(body=[[], {}, [1]]),
    "time limit is text": packed(headers={"timelimit": "soon"}),
    "time limits are text": packed(headers={"timelimit": ["a", "b"]}),
    "task name is a list": packed(headers={"task": ["tasks", "lab_nothing"]}),
    "task name is null": packed(headers={"task": None}),
    "task name is missing": packed(without="task"),
    "task name has a NUL": packed(headers={"task": "tasks.\x00"}),
    "task is unknown": packed(headers={"task": "tasks.of_the_next_release"}),
    "task is unknown and its argument has a NUL": packed(
        headers={"task": "tasks.of_the_next_release"}, body=[["\x00"], {}, {}]
    ),
    "task is unknown and its argument is half a character": packed(
        headers={"task": "tasks.of_the_next_release"}, body=[["\ud800"], {}, {}]
    ),
    "task is unknown and its argument is not a number": packed(
        headers={"task": "tasks.of_the_next_release"}, body=[[float("nan")], {}, {}]
    ),
    "task is durable and its argument is not a number": packed(
        headers={"task": "tasks.lab_fail"}, body=[[float("nan")], {}, {}]
    ),
    "task is durable and its argument has a NUL": packed(headers={"task": "tasks.lab_fail"}, body=[["\x00"], {}, {}]),
    **{
        f"task is durable and {what}": packed(headers={"task": "tasks.lab_fail"}, body=[["x"], {}, embed])
        for what, embed in {
            "its callbacks are empty and no list": {"callbacks": {}},
            "its callbacks are a word": {"callbacks": "tasks.lab_nothing"},
            "its callback is a word": {"callbacks": ["tasks.lab_nothing"]},
            "its callback has no task": {"callbacks": [{"args": []}]},
            "its errback is a number": {"errbacks": [1]},
            "its errback's task is a list": {"errbacks": [{"task": ["tasks.lab_nothing"]}]},
            "its chain is a mapping": {"chain": {"task": "tasks.lab_nothing"}},
            "its chain's options are a word": {"chain": [{"task": "tasks.lab_nothing", "options": "x"}]},
            "its chord is a list": {"chord": [{"task": "tasks.lab_nothing"}]},
            "its chord has no task": {"chord": {}},
        }.items()
    },
    "id is missing": packed(without="id"),
    "id is a number": packed(headers={"id": 42}),
    "id is half a character": packed(headers={"id": "\ud800"}),
    "root id is a number": packed(headers={"root_id": 5}),
    "retries are more than a column holds": packed(headers={"retries": 2**40}),
    "retries are a word": packed(headers={"retries": "many"}),
    "eta is garbage": packed(headers={"eta": "tomorrow-ish"}),
    "eta is a list": packed(headers={"eta": [1]}),
    "expires is garbage": packed(headers={"expires": "tomorrow-ish"}),
    "the body names no task": json.dumps({**envelope(body={"args": []}), "headers": {}}).encode(),
    "the body names a list for a task": first_protocol(task=["tasks.lab_nothing"]),
    "the body names an unknown task": first_protocol(task="tasks.of_the_next_release"),
    "the body's id is a number": first_protocol({"ledger": True}, id=42),
    "the body's id is a number, and it takes no arguments": json.dumps(
        {**envelope(body={"task": "tasks.lab_nothing", "id": 42, "ledger": True}), "headers": {"id": "x"}}
    ).encode(),
    "the body's retries are a word": first_protocol({"ledger": True}, retries="many"),
    "the body's arguments are a mapping": first_protocol(args={"x": 1}),
    "the body's keyword arguments are a list": first_protocol(kwargs=[]),
    "the body's argument has a NUL": first_protocol(task="tasks.lab_fail", args=["\x00"]),
    "the body's callback is a word": first_protocol(task="tasks.lab_fail", args=["x"], callbacks=["tasks.lab_nothing"]),
    "an argument too many": packed(body=[[1, 2, 3], {}, {}]),
    "an argument too many with a NUL": packed(body=[["\x00"], {}, {}]),
    "expired an hour ago": packed(headers={"expires": "2020-01-01T00:00:00+00:00"}),
}

UNKNOWN = [name for name in UNUSABLE if name.startswith("task is unknown")] + [
    "task name has a NUL",
    "the body names an unknown task",
]
# What kind of letter each must become. It says what an operator is to do, so one for another will not do.
KINDS: dict[str, str] = {
    **dict.fromkeys(UNUSABLE, "undecodable"),
    **dict.fromkeys(UNKNOWN, "unknown_task"),
    "an argument too many": "wrong_arguments",
    "an argument too many with a NUL": "wrong_arguments",
    "expired an hour ago": "expired",
}


def addressed(name: str) -> bytes:
    """The item with its name for a routing key, which its letter has for a queue."""
    return UNUSABLE[name].replace(b'"routing_key": "default"', f'"routing_key": "{name}"'.encode())


def kinds_of_letters(letters: Iterable[DeadLetter]) -> dict[str, list[str]]:
    """By the name of the item that was `addressed`. Of an envelope that cannot be read, the letter shows the text, and
    the queue in which it lay.
    """
    found = [(letter.queue, letter.args, letter.kind) for letter in letters]
    unread = {name: ("default", [shown(addressed(name))]) for name in UNUSABLE}
    return {
        name: [kind for queue, args, kind in found if queue == name or (queue, args) == unread[name]]
        for name in UNUSABLE
    }


def shown(item: bytes) -> str:
    return item[:SHOWN].decode("utf-8", "replace").replace("\x00", "�")


# Odd, but a worker can run it.
HARMLESS: dict[str, bytes] = {
    "no options": packed(body=[[], {}, None]),
    "of Celery's first protocol": first_protocol(),
    "of Celery's first protocol, without arguments": json.dumps(
        {**envelope(body={"task": "tasks.lab_nothing", "id": str(uuid4())}), "headers": {}}
    ).encode(),
    "task is durable and it has callbacks": packed(
        headers={"task": "tasks.lab_fail"},
        body=[["x"], {}, {"callbacks": [{"task": "tasks.lab_nothing", "args": [], "options": {}}], "chain": []}],
    ),
    "a character set that JSON does not need": packed(**{"content-encoding": "klingon-8"}),
    "a tracing header of another service": packed(headers={"traceparent": "00-abc", "stamps": {}}),
    "a reply address that nobody reads": packed(properties={"reply_to": "nowhere", "correlation_id": "x"}),
}
