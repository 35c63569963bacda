"""Server-sent events: a page is told what has changed, and need not ask.

Problem. A page that asks every second is a request every second. A stream that is written the usual way holds a
thread and a database connection for as long as somebody looks, and keeps the server from stopping.

Guarantee. A stream that waits holds neither; it ends by itself after `LIFE`, and when the server is told to stop. A
process serves `LIMIT` of them at most. The browser comes again by itself, and is asked anew who it is. A page that is
refused (the limit, a server that cannot stream, a proxy that holds answers back) asks every now and then instead, and
shows the same.

Not guaranteed. What changed and changed back between two looks is not told.
"""

import asyncio
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import FrameType

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from apps.jobs import connections

# Seconds between two looks: as often as a running job reports its progress.
EVERY = 1.0
# Proxies give up a connection on which nothing comes for a minute, some after half of one.
KEEP_ALIVE = 15.0
# Seconds. Whoever was signed out, or has lost the job, looks on for no longer.
LIFE = 120.0
# Of one process. Each looks once in `EVERY`, so that all together ask the database a hundred small questions a second.
LIMIT = 100
# Milliseconds until the browser comes again.
RETRY = 2_000

LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Seen:
    """What a page is to show, in pieces by name. `last`: it will not change any more."""

    pieces: Mapping[str, str]
    last: bool = False


_open = 0
_is_stopping = False


def answer(request: HttpRequest, look: Callable[[], Seen]) -> HttpResponseBase:
    """Stream what `look` finds. 501 from a server that cannot, and 503 when there are too many: the page then polls."""
    if not isinstance(request, ASGIRequest):
        return HttpResponse("This server cannot stream.", status=501, content_type="text/plain")
    if _open >= LIMIT:
        return HttpResponse("Too many streams.", status=503, content_type="text/plain", headers={"Retry-After": "60"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(_counted(look), content_type="text/event-stream", headers=headers)


async def _counted(look: Callable[[], Seen]) -> AsyncIterator[str]:
    global _open  # noqa: PLW0603 - it is the number of this process
    _open += 1
    _listen_for_the_end()
    try:
        # The view has left its connection open for the rest of the request, which is to last.
        await sync_to_async(connections.close)()
        yield f"retry: {RETRY}\n\n"
        async for text in _events(look):
            yield text
    finally:
        _open -= 1


async def _events(look: Callable[[], Seen]) -> AsyncIterator[str]:
    """A piece is sent when it is new. A comment now and then, for a line on which nothing comes is cut."""
    sent: dict[str, str] = {}
    spoke = began = time.monotonic()
    while time.monotonic() - began < LIFE and not _is_stopping:
        seen = await sync_to_async(_look_and_let_go)(look)
        text = "".join(as_event(name, piece) for name, piece in seen.pieces.items() if sent.get(name) != piece)
        if not text and time.monotonic() - spoke > KEEP_ALIVE:
            text = ": nothing new\n\n"
        if text:
            spoke = time.monotonic()
            yield text
        if seen.last:
            return
        sent |= seen.pieces
        await asyncio.sleep(EVERY)
    yield as_event("again", "")


def _look_and_let_go(look: Callable[[], Seen]) -> Seen:
    try:
        return look()
    finally:
        connections.close()


def as_event(name: str, piece: str) -> str:
    """A line break inside the piece begins a new line of data, so that none of it is taken for a field."""
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in LINE_END.split(piece)) + "\n"


@cache
def _listen_for_the_end() -> None:
    """A server that is told to stop waits for its answers to end, and tells nobody so: its handler follows ours.

    Once, at the first stream: the server has its handlers in place then.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        theirs = signal.getsignal(number)
        if callable(theirs):
            signal.signal(number, partial(_stop, theirs))


def _stop(theirs: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    global _is_stopping  # noqa: PLW0603 - as above
    _is_stopping = True
    theirs(number, frame)
