"""The end of a run: a slow machine is waited for, a system that stands still is not."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from apps.local.chaos import rest
from apps.local.chaos.rest import Patience, Rest
from apps.local.chaos.world import World


@dataclass
class Backlog:
    """A world of which nothing is left but jobs that wait; `pace` of them end at each look."""

    live_jobs: int
    pace: int
    ahead: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    sandbox: Any = field(default_factory=lambda: SimpleNamespace(clear=lambda: None))
    fleet: Any = field(default_factory=lambda: SimpleNamespace(remove=lambda *_: None, tend=lambda: None))
    witness: Any = field(default_factory=lambda: SimpleNamespace(rows=lambda *_: []))

    def live(self) -> int:
        self.live_jobs = max(0, self.live_jobs - self.pace)
        return self.live_jobs

    def in_broker(self) -> int:
        return 0

    def hurry(self) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Those that were sent. No second passes but in the sleep of the wait."""
    sent: list[set[str]] = []
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(rest, "time", clock)
    monkeypatch.setattr("apps.local.chaos.attack.time", clock)
    monkeypatch.setattr(rest, "send_canaries", sent.append)
    monkeypatch.setattr(rest, "close_old_connections", lambda: None)
    return sent


def test_a_backlog_that_shrinks_is_waited_for(canaries: list[set[str]]) -> None:
    slow = Backlog(live_jobs=1000, pace=1)
    violations, _ = Rest(cast(World, slow), seconds=5).come_to_rest()
    assert slow.live_jobs == 0
    assert violations == []
    assert canaries


def test_no_canary_is_sent_behind_a_backlog_that_stands_still(canaries: list[set[str]]) -> None:
    violations, silent = Rest(cast(World, Backlog(live_jobs=3, pace=0)), seconds=5).come_to_rest()
    assert [violation.subject for violation in violations] == ["all workers"]
    assert "3 live jobs and 0 messages" in violations[0].sentence
    assert silent == []
    assert canaries == []


def test_patience_starts_anew_with_each_progress_and_ends_all_the_same() -> None:
    patience = Patience(seconds=10, longest=25)
    assert not patience.is_over(3, now=0)
    assert not patience.is_over(2, now=10)
    assert not patience.is_over(2, now=20)
    assert patience.is_over(2, now=21)
    assert not patience.is_over(1, now=22)
    assert patience.is_over(0, now=26)
