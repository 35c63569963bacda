"""The most that a request may hold, before Django has seen any of it.

Problem. Django copies a body of any length into a temporary file before its first middleware is asked, and uvicorn has
no limit: one request fills the disk.

Guarantee. Of no body does more than the limit reach Django. One that announces more is thrown away as it comes, and
Django finds it empty, with the announced length still in the header: a view that looks there says so on a page of its
own, and `request.body` raises RequestDataTooBig. One that grows larger than it said is answered with 413 from here.

Not guaranteed. That a request ends: what is thrown away still costs the line. And a form in parts whose view does not
look at the length is empty to it, and mostly refused for want of its CSRF token.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class BodyLimit:
    """For an application that reads the whole body before it begins to answer, as Django does."""

    def __init__(self, application: Application, most: int) -> None:
        self.application = application
        self.most = most

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        limited = self._limited(scope, receive, send) if scope["type"] == "http" else receive
        await self.application(scope, limited, send)

    def _limited(self, scope: dict[str, Any], receive: Receive, send: Send) -> Receive:
        # Received all the same: a browser that has not sent everything yet shows a lost connection, and no answer.
        unwanted = _announced(scope) > self.most
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            if unwanted:
                return {**message, "body": b""}
            # Also where a length was announced: of a body in chunks it says nothing.
            received += len(message.get("body", b""))
            if received <= self.most:
                return message
            await self._refuse(scope, send)
            # What a server says after an answer. Django closes its file upon it, and ends.
            return {"type": "http.disconnect"}

        return receive_limited

    async def _refuse(self, scope: dict[str, Any], send: Send) -> None:
        # No middleware has seen this request, so the line that each of them gets is written here.
        logger.warning("Too large", extra={"method": scope["method"], "path": scope["path"], "status": 413})
        body = f"This is too large: a request may have {self.most // 1024**2} MB at most.\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _announced(scope: dict[str, Any]) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0
