"""The switches and counts in code, for tests, the tour, the simulator and the chaos harness."""

from typing import Any

import requests

# A page of another site cannot send this header without asking first, and the sandbox answers no such question. It
# stands here and not beside the endpoints: who only asks needs no Flask, and each worker would load it.
HEADER = "X-Sandbox-Control"
# Of the sandbox's own endpoints, none of which waits for anything but a webhook's receiver.
TIMEOUT = 15


class Sandbox:
    """A running sandbox at `url`. Raises requests.HTTPError when it refuses, with its sentence."""

    def __init__(self, url: str, mail_url: str = "") -> None:
        self.url = url.rstrip("/")
        self.mail_url = mail_url
        self._session = requests.Session()
        self._session.headers[HEADER] = "1"

    def fault(self, party: str, mode: str, **how: Any) -> None:
        """Switch one fault on: `fault("stripe", "error", rate=.5)`. The rest is explained at `faults.Fault`."""
        self._post("faults", party=party, mode=mode, **how)

    def clear(self, party: str | None = None) -> None:
        """Switch a party's faults off, or everybody's; held requests go on at once."""
        self._post("clear", party=party)

    def faults(self) -> dict[str, list[dict[str, Any]]]:
        return dict(self._get("faults"))

    def counts(self) -> dict[str, Any]:
        """`asked`, `faults`, `replayed`, `webhooks` (each party → what → times), and `charges` by order."""
        return dict(self._get("counts"))

    def charges(self, order_id: object) -> list[dict[str, Any]]:
        """The charges that succeeded for one order: charged once means that there is one."""
        return list(self._get(f"charges/{order_id}"))

    def events(self) -> list[dict[str, Any]]:
        """Stripe's events, the newest first."""
        return list(self._get("events"))

    def send_webhooks_to(self, url: str) -> None:
        self._post("webhooks", url=url)

    def send_event_again(self, event_id: str) -> bool:
        return bool(self._post(f"events/{event_id}/send")["accepted"])

    def expire_idempotency_keys(self) -> None:
        """What Stripe does after a day."""
        self._post("expire-keys")

    def reset(self) -> None:
        self._post("reset")

    def products(self) -> dict[str, dict[str, Any]]:
        """What the supplier was sent, by sku: `product` as sent last, and how many `pushes` there were."""
        return {product["id"]: product for product in self._get("products")}

    def limit_supplier(self, requests: int | None, seconds: float = 60) -> None:
        """Let so many requests in the window pass, then answer 429. None: no limit."""
        self._post("supplier/limit", requests=requests, seconds=seconds)

    def publish_changes(self, number: int = 1) -> int:
        """Let so many more things change at the supplier's side; return how many changes there are now."""
        return int(self._post("supplier/changes", number=number)["published"])

    def mail(self, to: str | None = None) -> list[dict[str, Any]]:
        """The messages that were taken, the newest first."""
        return [message for message in self._get("mail") if to is None or to in message["to"]]

    def _get(self, path: str) -> Any:
        return self._answer(self._session.get(f"{self.url}/_/{path}", timeout=TIMEOUT))

    def _post(self, path: str, **body: Any) -> Any:
        return self._answer(self._session.post(f"{self.url}/_/{path}", json=body, timeout=TIMEOUT))

    @staticmethod
    def _answer(response: requests.Response) -> Any:
        if not response.ok:
            raise requests.HTTPError(response.text, response=response)
        return response.json()
