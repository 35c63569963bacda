"""Stripe's idempotency keys, by the rules of its documentation.

The first answer to a key is saved with its status, a 402 and a 500 as well, and is replayed for the same request.
Nothing is saved before the endpoint has begun to work: not for a bad parameter, a 409 or a 429. Keys belong to an
account and are forgotten after a day.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from werkzeug.datastructures import MultiDict

from apps.sandbox.store import Document, Store

# "Keys are eligible to be removed from the system after they're at least 24 hours old."
LIFETIME = 24 * 60 * 60


class KeyInUse(Exception):
    """Another request with this key has not been answered yet."""


class KeyReused(Exception):
    """This key belongs to a request with another path or other parameters."""


@dataclass(frozen=True)
class Key:
    account: str
    name: str
    fingerprint: str

    @property
    def id(self) -> str:
        return f"{self.account} {self.name}"


def fingerprint(path: str, form: MultiDict[str, str]) -> str:
    return hashlib.sha256(repr((path, sorted(form.items(multi=True)))).encode()).hexdigest()


class IdempotencyKeys:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._in_flight: set[str] = set()

    @contextmanager
    def in_flight(self, key: Key) -> Iterator[None]:
        """KeyInUse while another request holds the key. Held in memory only: a request dies with its process."""
        with self._lock:
            if key.id in self._in_flight:
                raise KeyInUse(key.name)
            self._in_flight.add(key.id)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight.discard(key.id)

    def saved(self, key: Key) -> Document | None:
        """The saved answer (`status`, `body`), or None for a key that is new or forgotten. Raises KeyReused."""
        saved = self._store.get("idempotency_key", key.id)
        if saved is None or saved["created"] < time.time() - LIFETIME:
            return None
        if saved["fingerprint"] != key.fingerprint:
            raise KeyReused(key.name)
        return saved

    def save(self, key: Key, status: int, body: Document) -> None:
        """Call it in the transaction of the work, or a process that dies between the two would work twice."""
        self._store.put(
            "idempotency_key",
            {"id": key.id, "fingerprint": key.fingerprint, "status": status, "body": body, "created": time.time()},
        )
