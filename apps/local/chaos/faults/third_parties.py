"""What Stripe, the supplier and the mail server do wrong."""

from collections.abc import Callable
from random import Random
from typing import Any

from apps.local.chaos import mix
from apps.local.chaos.faults.strike import Course, Hit, fault, until_met
from apps.local.chaos.world import World

# What has a third party asked.
WORK = {"stripe": mix.charge, "supplier": mix.sync, "mail": mix.mail}


def switch_on(party: str, mode: str, **how: Any) -> Callable[[World, float], Course]:
    def strike(world: World, choice: float) -> Course:
        before, rng = _faults_of(world, party), Random(choice)
        world.sandbox.fault(party, mode, **how)
        yield 5.0
        met = yield from until_met(world, lambda: _faults_of(world, party) - before, lambda: WORK[party](rng))
        world.sandbox.clear(party)
        return Hit(met, "requests")

    return strike


def _faults_of(world: World, party: str) -> int:
    return sum(world.sandbox.counts()["faults"].get(party, {}).values())


for party in ("stripe", "supplier"):
    for mode, title, how in (
        ("error", "answers 500", {"rate": 0.7}),
        ("rate_limit", "answers 429", {"rate": 0.7}),
        ("hang", "hangs", {"rate": 0.7, "hold": 4}),
        ("cut", "closes mid-answer", {"rate": 0.7}),
    ):
        fault(f"{party} {title}", resource=party, seconds=7)(switch_on(party, mode, **how))
fault("stripe answers 500 after the work", resource="stripe", seconds=7)(switch_on("stripe", "error_after", rate=0.7))
fault("mail server says come later", resource="mail", seconds=10)(switch_on("mail", "error", rate=0.7))
