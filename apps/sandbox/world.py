"""What the pretended third parties share: memory, switches, and the names that they answer to."""

from dataclasses import dataclass, field
from random import Random
from typing import cast

from flask import current_app

from apps.sandbox.faults import Switchboard
from apps.sandbox.idempotency import IdempotencyKeys
from apps.sandbox.store import Store
from apps.sandbox.webhooks import Webhooks


@dataclass
class World:
    stripe_api_key: str
    supplier_api_key: str
    webhook_secret: str
    webhook_url: str = ""  # empty: events are kept, and sent to nobody
    store: Store = field(default_factory=Store)
    switchboard: Switchboard = field(default_factory=lambda: Switchboard(Random()))  # noqa: S311 (decides which request fails)

    def __post_init__(self) -> None:
        self.keys = IdempotencyKeys(self.store)
        self.webhooks = Webhooks(self.store, self.webhook_secret, self.webhook_url)


def world() -> World:
    """The world of the server that answers this request: one process may run several, as the tests do."""
    return cast(World, current_app.extensions["sandbox"])
