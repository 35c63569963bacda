"""No request fills the disk: what Django copies into a file before anybody is asked has an end."""

import asyncio
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.handlers import asgi

from apps.uploads.limits import MAX_BODY_BYTES
from config.asgi import application
from config.body_limit import BodyLimit, Message

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
MEGABYTE = b"x" * 1024**2


@dataclass
class Answer:
    status: int
    content_type: str
    text: str
    # Pieces of the body that nobody had received by then.
    left: int


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes Django has written into its files of bodies, at each time."""
    written: list[int] = []

    class Measured(tempfile.SpooledTemporaryFile[bytes]):
        def write(self, data: Any) -> int:
            written.append(len(data))
            return super().write(data)

    monkeypatch.setattr(asgi, "tempfile", SimpleNamespace(SpooledTemporaryFile=Measured))
    return written


def post(address: str, pieces: Iterable[bytes], length: int | None = None, content_type: str = "text/plain") -> Answer:
    """As a server would call the application for a body that comes in these pieces."""
    coming = iter([*({"body": piece, "more_body": True} for piece in pieces), {"body": b"", "more_body": False}])
    sent: list[Message] = []

    async def receive() -> Message:
        for part in coming:
            return {"type": "http.request", **part}
        await asyncio.Event().wait()  # The client stays, until its answer has come.
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    # Of a browser that has seen a form, so that the form is read for the token beside this.
    cookie = b"csrftoken=" + b"a" * 32
    headers = [(b"host", b"localhost"), (b"cookie", cookie), (b"content-type", content_type.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {"type": "http", "method": "POST", "path": address, "query_string": b"", "headers": headers}
    asyncio.run(application(scope, receive, send))
    answered = {name.lower(): value.decode() for name, value in sent[0]["headers"]}
    text = b"".join(message["body"] for message in sent[1:]).decode()
    return Answer(sent[0]["status"], answered[b"content-type"], text, left=len(list(coming)))


@pytest.mark.parametrize(
    ("address", "content_type", "status", "sentence"),
    [
        ("/webhooks/stripe/", "application/json", 413, "longer than any event"),
        ("/login/", FORM, 400, "made no sense"),
        ("/login/", PARTS, 403, "This form was too old"),
        ("/no-such-page/", "text/plain", 404, "There is no such page"),
    ],
)
def test_a_body_that_announces_too_much_is_received_stored_nowhere_and_refused(
    stored: list[int], address: str, content_type: str, status: int, sentence: str
) -> None:
    answer = post(address, [MEGABYTE] * 11, len(MEGABYTE) * 11, content_type)
    assert (answer.status, sum(stored)) == (status, 0)
    assert sentence in answer.text
    assert answer.left == 0, "or a browser would show a lost connection"


@pytest.mark.parametrize("length", [None, 5])
def test_a_body_that_grows_larger_than_it_said_is_cut_off(
    stored: list[int], length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    answer = post("/login/", [MEGABYTE] * 20, length)
    assert (answer.status, answer.content_type) == (413, "text/plain; charset=utf-8")
    assert answer.text == "This is too large: a request may have 10 MB at most.\n"
    assert sum(stored) <= MAX_BODY_BYTES
    [line] = [record for record in caplog.records if record.name == "config.body_limit"]
    assert (vars(line)["path"], vars(line)["status"]) == ("/login/", 413)


@pytest.mark.parametrize("length", [None, MAX_BODY_BYTES])
def test_a_body_that_is_just_small_enough_comes_through(stored: list[int], length: int | None) -> None:
    rest = MAX_BODY_BYTES - 10 * len(MEGABYTE)
    post("/no-such-page/", [*[MEGABYTE] * 10, b"x" * rest], length)
    assert sum(stored) == MAX_BODY_BYTES


def test_what_is_no_request_is_handed_on_as_it_is() -> None:
    handed_on: list[Any] = []

    async def note(*arguments: Any) -> None:
        handed_on.extend(arguments)

    async def receive() -> Message:
        raise AssertionError

    async def send(_: Message) -> None:
        raise AssertionError

    scope = {"type": "lifespan"}
    asyncio.run(BodyLimit(note, 1)(scope, receive, send))
    assert handed_on == [scope, receive, send]
