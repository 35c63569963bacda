"""What the pretended third parties share: memory, switches, and the names that they answer to."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

from django.conf import settings
from flask import current_app

from apps.sandbox.allowance import Allowance
from apps.sandbox.faults import Switchboard
from apps.sandbox.idempotency import IdempotencyKeys
from apps.sandbox.mail import Mailbox
from apps.sandbox.store import Store
from apps.sandbox.webhooks import Webhooks


@dataclass
class World:
    stripe_api_key: str
    supplier_api_key: str
    webhook_secret: str
    webhook_url: str = ""  # empty: events are kept, and sent to nobody
    store: Store = field(default_factory=Store)
    switchboard: Switchboard = field(default_factory=lambda: Switchboard(Random()))
    allowance: Allowance = field(default_factory=Allowance)
    mailbox: Mailbox = field(default_factory=Mailbox)

    @classmethod
    def of_the_shop(cls, *, webhook_url: str = "", state: Path | None = None) -> "World":
        """A world that knows the shop's own keys. `state` is a file to remember in."""
        return cls(
            stripe_api_key=settings.STRIPE_API_KEY,
            supplier_api_key=settings.SUPPLIER_API_KEY,
            webhook_secret=settings.STRIPE_WEBHOOK_SECRET,
            webhook_url=webhook_url,
            store=Store(state),
        )

    def __post_init__(self) -> None:
        self.keys = IdempotencyKeys(self.store)
        self.webhooks = Webhooks(self.store, self.webhook_secret, self.webhook_url)


def world() -> World:
    """The world of the server that answers this request: one process may run several, as the tests do."""
    return cast(World, current_app.extensions["sandbox"])
