"""What Stripe, the supplier and the mail server do wrong."""

from collections.abc import Callable
from typing import Any

from apps.local.chaos.faults.strike import Course, Hit, fault
from apps.local.chaos.world import World


def switch_on(party: str, mode: str, **how: Any) -> Callable[[World, float], Course]:
    def strike(world: World, _choice: float) -> Course:
        before = _faults_of(world, party)
        world.sandbox.fault(party, mode, **how)
        yield 5.0
        world.sandbox.clear(party)
        return Hit(_faults_of(world, party) - before, "requests")

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
