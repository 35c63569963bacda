"""What the producers were promised: one of the two truths that the audit compares.

Each line is appended after the answer (a commit, an HTTP response) has come back, and never changed.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Promise:
    """A job that was accepted, and the end that it must come to: `succeeded`, `dead` or `cancelled`."""

    job_id: str
    task: str
    end: str = "succeeded"
    result: Any = None


@dataclass(frozen=True)
class PlacedOrder:
    """An order that the web process accepted, after so many attempts."""

    request_key: str
    order_id: int
    end: str
    attempts: int


@dataclass(frozen=True)
class Errand:
    """What was asked for while the broker was frozen, how many seconds it took, and its error, if there was one."""

    what: str
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class BadMessage:
    """A malformed message. `becomes` says what the worker must make of it: a letter, or the end of this job."""

    kind: str
    marker: str
    becomes: str
    job_id: str = ""


@dataclass
class Journal:
    path: Path
    accepted: dict[str, Promise] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    # A commit whose answer was lost: all of its jobs exist, or none.
    unknown: list[list[Promise]] = field(default_factory=list)
    orders: list[PlacedOrder] = field(default_factory=list)
    bad_messages: list[BadMessage] = field(default_factory=list)
    errands: list[Errand] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def accept(self, promises: list[Promise]) -> None:
        with self._lock:
            self.accepted.update({promise.job_id: promise for promise in promises})
            self._append("accepted", promises)

    def roll_back(self, job_ids: list[str]) -> None:
        with self._lock:
            self.rolled_back.update(job_ids)
            self._append("rolled_back", job_ids)

    def doubt(self, promises: list[Promise]) -> None:
        with self._lock:
            self.unknown.append(promises)
            self._append("unknown", promises)

    def order(self, placed: PlacedOrder) -> None:
        with self._lock:
            self.orders.append(placed)
            self._append("order", [placed])

    def bad_message(self, message: BadMessage) -> None:
        with self._lock:
            self.bad_messages.append(message)
            self._append("bad_message", [message])

    def run_errand(self, errand: Errand) -> None:
        with self._lock:
            self.errands.append(errand)
            self._append("errand", [errand])

    @property
    def count(self) -> int:
        return len(self.accepted) + len(self.orders)

    def _append(self, what: str, things: list[Any]) -> None:
        plain = [thing if isinstance(thing, str) else asdict(thing) for thing in things]
        with self.path.open("a") as file:
            file.write(json.dumps({"at": time.time(), what: plain}) + "\n")
