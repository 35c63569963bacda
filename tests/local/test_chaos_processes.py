"""A process of a run that is asked to stop: it has to, and well."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from apps.local.chaos.faults import workers
from apps.local.chaos.processes import Fleet
from apps.local.chaos.world import World
from apps.local.waiting import wait_for

# Ends with this code at SIGTERM, and says when it is ready to.
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: {at_sigterm})
print("ready", flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet({}, tmp_path)
    yield fleet
    for name in fleet:
        fleet.kill(name)
    fleet.remove(*list(fleet))


def start(fleet: Fleet, at_sigterm: str) -> None:
    fleet.add("worker", "python", "-c", PROGRAM.format(at_sigterm=at_sigterm))
    assert wait_for(lambda: "ready" in fleet.log("worker").read_text(), 20)


def stop(fleet: Fleet) -> None:
    fleet.terminate("worker")

    def has_restarted() -> bool:
        fleet.tend()
        return fleet.members["worker"].starts == 2

    assert wait_for(has_restarted, 20)


def test_a_process_that_stops_when_it_is_asked_to_is_started_again_without_a_word(fleet: Fleet) -> None:
    start(fleet, "sys.exit(0)")
    stop(fleet)
    assert fleet.exits == []


def test_a_process_that_crashes_when_it_is_asked_to_stop_is_noted(fleet: Fleet) -> None:
    start(fleet, "sys.exit(1)")
    stop(fleet)
    assert [gone.how for gone in fleet.exits] == ["ended with code 1 when it was asked to stop"]


def test_a_worker_that_does_not_stop_when_it_is_asked_to_is_noted_once_and_killed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.2)
    start(fleet, "None")
    strike = workers.until_stopped(cast(World, SimpleNamespace(fleet=fleet)), "worker")
    list(strike)
    assert wait_for(lambda: not fleet.members["worker"].is_up, 10)
    fleet.tend()
    assert [gone.how for gone in fleet.exits] == ["did not stop in 0 s when it was asked to"]
