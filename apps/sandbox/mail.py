"""A mail server that delivers to nobody: it keeps the last messages for a person, or a test, to read.

Recipients at invalid.example do not exist (550). A fault is drawn for each recipient; one that does the work first
shows after the message has been taken.
"""

import asyncio
import socket
import threading
from collections import deque
from datetime import UTC, datetime
from email import message_from_bytes, policy
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from aiosmtpd.smtp import SMTP, Envelope, Session

from apps.sandbox.faults import Mode, Switchboard, Trouble
from apps.sandbox.store import Store

NOBODY = "@invalid.example"
# Enough to look at; an hour of a demo's mail would only fill the memory.
KEPT = 500

TAKEN = "250 2.0.0 Message accepted for delivery"
NO_SUCH_MAILBOX = "550 5.1.1 No such mailbox here"
TRY_LATER = "451 4.3.0 The sandbox was switched to fail, try again later"
TOO_MANY = "421 4.7.0 Too many messages, try again later"


class Mailbox:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._numbers = count(1)

    def keep(self, sender: str, recipients: list[str], content: bytes) -> None:
        message = _readable(content) | {"from": sender, "to": recipients, "received_at": datetime.now(UTC).isoformat()}
        with self._lock:
            self._messages.appendleft({"id": next(self._numbers)} | message)

    def messages(self) -> list[dict[str, Any]]:
        """The newest first."""
        with self._lock:
            return list(self._messages)

    def empty(self) -> None:
        with self._lock:
            self._messages.clear()


def _readable(content: bytes) -> dict[str, Any]:
    # On the wire a line ends in two characters.
    message = message_from_bytes(content.replace(b"\r\n", b"\n"), policy=policy.default)
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    return {
        "subject": str(message.get("Subject", "")),
        "headers": {name: str(value) for name, value in message.items()},
        "text": text.get_content() if text else "",
        "html": html.get_content() if html else "",
    }


class Postmaster:
    """Answers the SMTP commands; aiosmtpd finds the methods by their names."""

    def __init__(self, mailbox: Mailbox, store: Store, switchboard: Switchboard) -> None:
        self._mailbox = mailbox
        self._store = store
        self._switchboard = switchboard
        self._later: WeakKeyDictionary[Envelope, Trouble] = WeakKeyDictionary()

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's names and arguments)
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        self._store.count("asked", "mail", "recipients")
        if address.lower().endswith(NOBODY):
            self._store.count("refused", "mail", "no such mailbox")
            return NO_SUCH_MAILBOX
        trouble = self._switchboard.draw("mail", address)
        if refusal := await self._meet(trouble, server):
            return refusal
        envelope.rcpt_tos.append(address)
        if trouble.fault:
            self._later[envelope] = trouble
        return "250 2.1.5 OK"

    async def _meet(self, trouble: Trouble, server: SMTP) -> str | None:
        """Be late, then give the refusal, if there is one."""
        await self._wait(trouble.latency)
        if trouble.fault is None:
            return None
        self._store.count("faults", "mail", trouble.fault.mode)
        if trouble.has(Mode.HANG):
            await self._wait(trouble.fault.hold)
        if trouble.has(Mode.DOWN):
            _hang_up(server)
        return {Mode.DOWN: TRY_LATER, Mode.ERROR: TRY_LATER, Mode.RATE_LIMIT: TOO_MANY}.get(trouble.fault.mode)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        self._mailbox.keep(envelope.mail_from or "", envelope.rcpt_tos, content)
        self._store.count("asked", "mail", "messages")
        trouble = self._later.pop(envelope, Trouble())
        if trouble.has(Mode.CUT):
            _hang_up(server)
        return TRY_LATER if trouble.has(Mode.ERROR_AFTER) else TAKEN

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await asyncio.to_thread(self._switchboard.wait, seconds)


def _hang_up(server: SMTP) -> None:
    """Close the connection; what is answered after this reaches nobody."""
    if server.transport:
        server.transport.close()


class MailServer:
    """Serves SMTP on a listening socket, in a thread with a loop of its own."""

    def __init__(self, postmaster: Postmaster, listening: socket.socket) -> None:
        self.port: int = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        protocol = partial(SMTP, postmaster, hostname="mail.sandbox.example", loop=self._loop)
        self._server = self._loop.run_until_complete(self._loop.create_server(protocol, sock=listening))
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-mail", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
