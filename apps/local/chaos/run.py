"""One run: set the stage, attack, come to rest, audit."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from apps.local.chaos.attack import Attack
from apps.local.chaos.audit import Violation, audit
from apps.local.chaos.evidence import gather
from apps.local.chaos.plan import Plan
from apps.local.chaos.producer import Producers
from apps.local.chaos.proofs import Proof
from apps.local.chaos.report import report
from apps.local.chaos.rest import Rest
from apps.local.chaos.stage import set_stage
from apps.local.chaos.world import World

# Without any job or message coming to its end: half as long again as the ledger waits for a message that was sent.
DRAIN_SECONDS = 90.0


def run(
    plan: Plan, folder: Path, environment: Mapping[str, str], proof: Proof | None, say: Callable[[str], None]
) -> bool:
    """Whether every promise was kept; not so, if this is to prove something. Whatever happens, nothing that it started
    is left behind.
    """
    began = time.monotonic()
    world = World(folder, environment, lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}"))
    (folder / "plan.json").write_text(json.dumps(asdict(plan), indent=1))
    try:
        set_stage(world)
        violations = _attack_and_audit(world, plan, proof, say)
    finally:
        world.stop()
    if not violations:
        world.forget()
    say(f"Took {time.monotonic() - began:.0f} s. Logs, journal and plan: {folder}")
    return not violations


def _attack_and_audit(world: World, plan: Plan, proof: Proof | None, say: Callable[[str], None]) -> list[Violation]:
    world.say(f"attacking: {len(plan.strikes)} strikes in {plan.seconds:.0f} s, seed {plan.seed}")
    producers = Producers(
        world.journal, plan.seed, plan.jobs, plan.seconds, f"http://127.0.0.1:{world.environment['PORT']}"
    )
    producers.start()
    attack = Attack(world, plan, producers)
    attack.carry_out()
    restless, silent = Rest(world, proof.drain if proof else DRAIN_SECONDS).come_to_rest()
    evidence = gather(world, [landed.window for landed in attack.landed], silent)
    untried = [Violation("the harness itself works", fault, "it met nothing") for fault in attack.untried()]
    violations = [*_errors_of(producers), *untried, *restless, *audit(evidence)]
    (world.folder / "violations.json").write_text(json.dumps([asdict(each) for each in violations], indent=1))
    text = "\n".join(report(plan, attack.landed, evidence, violations, proof.check if proof else None))
    (world.folder / "report.md").write_text(text)
    say(text)
    return violations


def _errors_of(producers: Producers) -> list[Violation]:
    return [Violation("the harness itself works", type(error).__name__, str(error)) for error in producers.errors]
