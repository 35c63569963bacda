"""A sandbox for the length of a test, in this process, on free ports and with the keys of the shop's settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apps.sandbox.client import Sandbox
from apps.sandbox.server import Server
from apps.sandbox.world import World


@contextmanager
def running_sandbox(*, webhook_url: str = "", state: Path | None = None) -> Iterator[Sandbox]:
    """Give the client of a running sandbox; it knows the addresses for the shop's settings as well."""
    server = Server(World.of_the_shop(webhook_url=webhook_url, state=state))
    server.start()
    try:
        yield Sandbox(server.url, mail_url=server.mail_url)
    finally:
        server.stop()
