"""`manage.py sandbox`: run the pretended third parties in a process of their own."""

import signal
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.sandbox.server import Server
from apps.sandbox.store import Store
from apps.sandbox.world import World

DEFAULT_PORT = 8787


class Command(BaseCommand):
    help = "Pretend to be Stripe, the supplier and a mail server, with switches to make them fail."
    # It must start, and stay up, while the database is down.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        address = urlsplit(settings.SANDBOX_URL)
        parser.add_argument("--host", default=address.hostname or "127.0.0.1")
        parser.add_argument("--port", type=int, default=address.port or DEFAULT_PORT, help="0 takes a free one")
        parser.add_argument("--state", type=Path, help="keep payments and counts in this file, over a restart")
        parser.add_argument("--webhooks", default="", metavar="URL", help="send Stripe's events to this address")

    def handle(self, **options: Any) -> None:
        if not settings.SANDBOX:
            raise CommandError("The sandbox is off. Set SANDBOX=1 (and DEBUG=1) to run it on a laptop.")
        if options["webhooks"] and not settings.STRIPE_WEBHOOK_SECRET:
            raise CommandError("Webhooks need a secret to be signed with: set STRIPE_WEBHOOK_SECRET.")
        server = self._server(options)
        server.start()
        self.stdout.write(f"SANDBOX_URL={server.url}")
        self.stdout.flush()
        _wait_for_signal()
        server.stop()

    def _server(self, options: dict[str, Any]) -> Server:
        try:
            return Server(_world(options), options["host"], options["port"])
        except OSError as error:
            address = f"{options['host']}:{options['port']}"
            raise CommandError(
                f"The sandbox cannot listen on {address}: {error.strerror}. Try another --port."
            ) from error


def _world(options: dict[str, Any]) -> World:
    state: Path | None = options["state"]
    if state:
        state.parent.mkdir(parents=True, exist_ok=True)
    return World(
        stripe_api_key=settings.STRIPE_API_KEY,
        supplier_api_key=settings.SUPPLIER_API_KEY,
        webhook_secret=settings.STRIPE_WEBHOOK_SECRET,
        webhook_url=options["webhooks"],
        store=Store(state),
    )


def _wait_for_signal() -> None:
    """Set both handlers: a shell starts a command in the background with SIGINT ignored."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
