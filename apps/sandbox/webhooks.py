"""Stripe's webhooks: signed events, sent in the background until the shop says 2xx.

An event is recorded in the transaction that it tells of, so a sandbox that is killed sends it after its restart. As
with Stripe, an event may come twice, and late, and not in order.
"""

import hashlib
import hmac
import json
import logging
import threading
import time

import requests

from apps.sandbox.store import Document, Store

logger = logging.getLogger(__name__)

# Stripe tries for three days, hours apart; someone who watches a demo, or a test, has seconds.
RETRY_DELAYS = (0.5, 1, 2, 4, 8, 15, 30, 60)
# Stripe gives an endpoint a few seconds as well; a slow shop gets the event again.
TIMEOUT = 10


def signed(payload: bytes, secret: str, at: int) -> str:
    """The header `Stripe-Signature`, as `stripe.Webhook.construct_event` checks it."""
    signature = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={at},v1={signature}"


class Webhooks:
    def __init__(self, store: Store, secret: str, url: str = "") -> None:
        self.url = url
        self._store = store
        self._secret = secret
        self._wake = threading.Event()
        self._stopped = False
        self._tries: dict[str, tuple[int, float]] = {}  # event's id → tries so far, when the next is due
        self._thread = threading.Thread(target=self._run, name="stripe-webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def record(self, event: Document) -> None:
        self._store.put("event", event | {"pending_webhooks": 1 if self.url else 0})
        self._wake.set()

    def send_again(self, event: Document) -> bool:
        """Send an event once more, now, as Stripe does when an answer was lost; True: the shop took it."""
        return self._post(event)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self.send_due()
            self._wake.wait(self._pause())

    def send_due(self) -> int:
        """Send what is due once; return how many events the shop has accepted."""
        pending = self._store.find("event", {"pending_webhooks": 1})
        return sum(self._send(event) for event in reversed(pending) if self._due_at(event) <= time.monotonic())

    def _due_at(self, event: Document) -> float:
        return self._tries.get(event["id"], (0, 0.0))[1]

    def _pause(self) -> float | None:
        """Seconds until the next try is due; None: nothing is, wait for an event."""
        due = [self._due_at(event) for event in self._store.find("event", {"pending_webhooks": 1})]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _send(self, event: Document) -> bool:
        accepted = self._post(event)
        tries = self._tries.get(event["id"], (0, 0.0))[0] + 1
        if accepted or tries > len(RETRY_DELAYS):
            self._tries.pop(event["id"], None)
            self._store.put("event", event | {"pending_webhooks": 0})
        else:
            self._tries[event["id"]] = (tries, time.monotonic() + RETRY_DELAYS[tries - 1])
        return accepted

    def _post(self, event: Document) -> bool:
        accepted = self._accepted(event)
        self._store.count("webhooks", "stripe", "accepted" if accepted else "refused")
        return accepted

    def _accepted(self, event: Document) -> bool:
        payload = json.dumps(event).encode()
        headers = {
            "Content-Type": "application/json",
            "Stripe-Signature": signed(payload, self._secret, int(time.time())),
        }
        try:
            return requests.post(self.url, data=payload, headers=headers, timeout=TIMEOUT).ok
        except requests.RequestException as error:
            logger.info("The shop did not take %s: %s", event["type"], error)
            return False
