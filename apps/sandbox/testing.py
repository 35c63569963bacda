"""A sandbox for the length of a test, in this process and on a free port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apps.sandbox.client import Sandbox
from apps.sandbox.server import Server
from apps.sandbox.store import Store
from apps.sandbox.world import World

STRIPE_API_KEY = "sk_test_nightshift"
SUPPLIER_API_KEY = "supplier-test-key"
WEBHOOK_SECRET = "whsec_nightshift"  # noqa: S105 (of the sandbox only)


@contextmanager
def running_sandbox(*, webhook_url: str = "", state: Path | None = None) -> Iterator[Sandbox]:
    """Give the client of a running sandbox; its `url` is Stripe's address as well."""
    world = World(
        stripe_api_key=STRIPE_API_KEY,
        supplier_api_key=SUPPLIER_API_KEY,
        webhook_secret=WEBHOOK_SECRET,
        webhook_url=webhook_url,
        store=Store(state),
    )
    server = Server(world)
    server.start()
    try:
        yield Sandbox(server.url)
    finally:
        server.stop()
