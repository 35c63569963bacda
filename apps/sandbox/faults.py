"""The switchboard: what each pretended third party does wrong, how often, and for how long.

Switches live in memory: a restarted sandbox works again. That is on purpose, for a forgotten fault would look like a
bug of the shop.
"""

import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PARTIES = ("stripe", "supplier", "mail")
# What JSON or a form may say in numbers about a fault; what it leaves out, or empty, is as in `Fault`.
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "rate": float,
    "count": int,
    "seconds": float,
    "hold": float,
    "retry_after": int,
    "latency_ms": int,
}


class Mode(StrEnum):
    """What a caller meets. Half of the modes do the work first: those are the ones that charge people twice."""

    DOWN = "down"  # the connection is closed at once; nothing was done
    ERROR = "error"  # 500 (mail: 451); nothing was done, and Stripe saves nothing under the idempotency key
    RATE_LIMIT = "rate_limit"  # 429 with Retry-After (mail: 421); nothing was done
    HANG = "hang"  # held for `hold` seconds, then worked on as usual, whether or not the caller still waits
    ERROR_AFTER = "error_after"  # the work is done, then 500 (mail: 451); Stripe saves the 500 under the key
    CUT = "cut"  # the work is done, then the connection is closed in the middle of the answer
    SLOW = "slow"  # answers `latency_ms` late; goes together with any other mode


@dataclass
class Fault:
    """One switch. It hits a share `rate` of the requests whose description contains `matching`.

    The description of a request is its method and path (`POST /v1/payment_intents/pi_1/confirm`), of a mail its
    recipient.
    """

    mode: Mode
    rate: float = 1.0
    count: int | None = None  # only the next so many requests; None: no limit
    seconds: float | None = None  # only for so long from now; None: until it is cleared
    matching: str = ""
    hold: float = 30.0  # `hang`; longer than any sane client's time-out
    retry_after: int = 1  # `rate_limit`, in seconds
    latency_ms: int = 0  # `slow`
    until: float = field(default=math.inf, init=False)

    @classmethod
    def parse(cls, asked: Mapping[str, Any]) -> "Fault":
        """Build a switch from JSON or a form. ValueError: a sentence that says what is wrong with it."""
        try:
            fault = cls(
                mode=Mode(str(asked.get("mode", ""))),
                matching=str(asked.get("matching") or ""),
                **{name: kind(asked[name]) for name, kind in NUMBERS.items() if asked.get(name) not in (None, "")},
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"This is not a fault: {error}.") from error
        if not 0 <= fault.rate <= 1:
            raise ValueError("A rate is a share of the requests, from 0 to 1.")
        return fault

    def describe(self) -> dict[str, Any]:
        limits = {"count": self.count, "matching": self.matching, "seconds": self.seconds}
        extra = {Mode.HANG: "hold", Mode.RATE_LIMIT: "retry_after", Mode.SLOW: "latency_ms"}.get(self.mode)
        if extra:
            limits[extra] = getattr(self, extra)
        return {"mode": str(self.mode), "rate": self.rate} | {name: value for name, value in limits.items() if value}

    def hits(self, what: str, now: float, rng: random.Random) -> bool:
        if now >= self.until or self.count == 0 or self.matching not in what:
            return False
        return self.rate >= 1 or rng.random() < self.rate


@dataclass(frozen=True)
class Trouble:
    """What one request meets: it waits `latency` seconds, and then perhaps one fault."""

    latency: float = 0.0
    fault: Fault | None = None

    def has(self, mode: Mode) -> bool:
        return self.fault is not None and self.fault.mode == mode


class Switchboard:
    def __init__(self, rng: random.Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._rng = rng
        self._clock = clock
        self._lock = threading.Lock()
        self._switched: dict[str, dict[Mode, Fault]] = defaultdict(dict)
        self._released = threading.Event()

    def switch(self, party: str, fault: Fault) -> None:
        """Switch a fault on. A party has one switch a mode, so this replaces an earlier one of the same mode."""
        if party not in PARTIES:
            raise ValueError(f"There is no third party called {party!r}, only {', '.join(PARTIES)}.")
        fault.until = self._clock() + (math.inf if fault.seconds is None else fault.seconds)
        with self._lock:
            self._switched[party][fault.mode] = fault

    def clear(self, party: str | None = None) -> None:
        """Switch everything off, and let every held request go on."""
        with self._lock:
            for name in PARTIES if party is None else (party,):
                self._switched[name].clear()
            self._released.set()
            self._released = threading.Event()

    def draw(self, party: str, what: str) -> Trouble:
        """Decide what one request meets. Counts are used up here, so each request must ask once."""
        with self._lock:
            hits = [fault for fault in self._switched[party].values() if fault.hits(what, self._clock(), self._rng)]
            slow = [fault for fault in hits if fault.mode == Mode.SLOW]
            others = [fault for fault in hits if fault.mode != Mode.SLOW][:1]
            for fault in slow + others:
                fault.count = None if fault.count is None else fault.count - 1
        return Trouble(sum(fault.latency_ms for fault in slow) / 1000, others[0] if others else None)

    def wait(self, seconds: float) -> None:
        """Keep a request waiting, but not past the next `clear`."""
        self._released.wait(seconds)

    def active(self) -> dict[str, list[dict[str, Any]]]:
        now = self._clock()
        with self._lock:
            return {
                party: [
                    fault.describe()
                    for fault in self._switched[party].values()
                    if fault.count != 0 and now < fault.until
                ]
                for party in PARTIES
            }
