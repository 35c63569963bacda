"""`manage.py sandbox`: run the pretended third parties in a process of their own."""

import signal
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.sandbox.server import PortTaken, Server
from apps.sandbox.world import World

DEFAULT_PORT = 8787


class Command(BaseCommand):
    help = "Pretend to be Stripe, the supplier and a mail server, with switches to make them fail."
    # It must start, and stay up, while the database is down.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        address = urlsplit(settings.SANDBOX_URL)
        parser.add_argument("--host", default=address.hostname or "127.0.0.1")
        parser.add_argument("--port", type=int, default=address.port or DEFAULT_PORT, help="0: any free one")
        parser.add_argument("--mail-port", type=int, help="default: the port after the other; 0: any free one")
        parser.add_argument("--state", type=Path, help="remember payments and counts in this file")
        parser.add_argument("--webhooks", default="", metavar="URL", help="send Stripe's events to this address")

    def handle(self, **options: Any) -> None:
        if not settings.SANDBOX:
            raise CommandError("The sandbox is off. Set SANDBOX=1 (and DEBUG=1) to run it on a laptop.")
        if options["webhooks"] and not settings.STRIPE_WEBHOOK_SECRET:
            raise CommandError("Webhooks need a secret to be signed with: set STRIPE_WEBHOOK_SECRET.")
        server = _server(options)
        server.start()
        # The names that the shop's settings have for these addresses; a program that starts us reads them.
        self.stdout.write(f"SANDBOX_URL={server.url}\nEMAIL_URL={server.mail_url}\n")
        self.stdout.flush()
        _wait_for_signal()
        server.stop()


def _server(options: dict[str, Any]) -> Server:
    port, mail_port, state = options["port"], options["mail_port"], options["state"]
    if state:
        state.parent.mkdir(parents=True, exist_ok=True)
    if mail_port is None:
        mail_port = port + 1 if port else 0
    world = World.of_the_shop(webhook_url=options["webhooks"], state=state)
    try:
        return Server(world, host=options["host"], port=port, mail_port=mail_port)
    except PortTaken as error:
        world.store.close()
        raise CommandError(f"{error} Choose others with --port and --mail-port.") from error


def _wait_for_signal() -> None:
    """Set both handlers: a shell starts a command in the background with SIGINT ignored."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
