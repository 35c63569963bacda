"""Proof that the audit can fail: with one safeguard taken out, faults chosen to need it, and the check that must
notice."""

import json
from dataclasses import dataclass

from apps.local.places import VAR


@dataclass(frozen=True)
class Proof:
    """`seconds` of these faults with so many jobs; `drain` (without progress) is short where jobs are bound to stay."""

    faults: tuple[str, ...]
    check: str
    jobs: int = 250
    seconds: float = 30.0
    drain: float = 30.0


SEED = 1

PROOFS = {
    "fencing": Proof(("worker frozen",), "no older attempt overwrote a newer one", seconds=40),
    "rescue": Proof(("kill -9 of a worker and",), "no job is still live, and no lease is held", drain=15),
    "idempotency": Proof(
        ("stripe closes mid-answer", "stripe answers 500 after"), "the sandbox's charges are the orders paid, one each"
    ),
    "claim": Proof(("messages duplicated",), "a job ends once, and moves only along the arrows"),
    "letters": Proof(("segfaults",), "dead jobs and their letters are the same set"),
    "atomicity": Proof(("worker frozen",), "an atomic job has its effect once, under its last token", seconds=40),
    "messages": Proof(("every kind of malformed",), "a malformed message became one letter, or one end"),
}


def is_proved(safeguard: str, code: int) -> bool:
    """The run failed, and for the right reason. One that came to no verdict proves nothing."""
    try:
        violations = json.loads((VAR / "chaos" / f"{SEED}-without-{safeguard}" / "violations.json").read_text())
    except FileNotFoundError:
        return False
    return code == 1 and any(violation["check"] == PROOFS[safeguard].check for violation in violations)
