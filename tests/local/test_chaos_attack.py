"""How strikes are begun, gone on with and ended."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from apps.local.chaos import attack
from apps.local.chaos.attack import Attack, NeverOver
from apps.local.chaos.faults import FAULTS, Course, Fault, Hit
from apps.local.chaos.plan import Kind, Plan, Strike
from apps.local.chaos.producer import Producers
from apps.local.chaos.world import World

STRIKES = (Strike(0.0, "first", 0.5), Strike(0.0, "second", 0.5))


@pytest.fixture
def begun() -> list[str]:
    return []


@pytest.fixture
def undone() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def faults(begun: list[str], undone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They last until somebody ends them. The third has a resource of its own, and spares that of the first."""

    def lasting(name: str) -> Any:
        def strike(_world: World, _choice: float) -> Course:
            begun.append(name)
            try:
                while True:
                    yield 0.0
            finally:
                undone.append(name)
            return Hit(1, "things")

        return strike

    monkeypatch.setitem(FAULTS, "first", Fault(Kind("one", 1), lasting("first")))
    monkeypatch.setitem(FAULTS, "second", Fault(Kind("two", 1), lasting("second")))
    monkeypatch.setitem(FAULTS, "third", Fault(Kind("three", 1, frozenset({"one"})), lasting("third")))


@pytest.fixture
def attacking() -> Attack:
    world = SimpleNamespace(
        fleet=SimpleNamespace(tend=lambda: None), journal=SimpleNamespace(count=0), live=lambda: 0, say=lambda _: None
    )
    producers = SimpleNamespace(are_busy=False)
    return Attack(cast(World, world), Plan(1, 1, 1.0, STRIKES), cast(Producers, producers))


def test_an_attack_that_never_ends_is_given_up_and_undone(
    attacking: Attack, undone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack, "LONGEST", 0.1)
    monkeypatch.setattr(attack, "AND_AT_LEAST", 0.0)
    with pytest.raises(NeverOver, match="under way: first, second"):
        attacking.carry_out()
    assert undone == ["first", "second"]


def begin(attacking: Attack, *faults: str) -> list[str]:
    """Returns those that are under way then."""
    attacking.began = time.monotonic() - 1
    attacking.waiting = [*attacking.waiting, *(Strike(0.0, fault, 0.5) for fault in faults)]
    attacking._start_due()
    return [each.strike.fault for each in attacking.under_way]


def test_a_strike_waits_for_what_it_spares_and_is_not_overtaken(attacking: Attack) -> None:
    attacking.waiting = []
    assert begin(attacking, "first") == ["first"]
    assert begin(attacking, "third") == ["first"]
    attacking.under_way.clear()
    assert begin(attacking, "first", "second") == ["third", "second"]


def test_what_a_strike_spares_is_left_in_peace(attacking: Attack) -> None:
    attacking.waiting = []
    assert begin(attacking, "third") == ["third"]
    assert begin(attacking, "first") == ["third"]
