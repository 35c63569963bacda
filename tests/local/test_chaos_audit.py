"""Each promise of the audit, broken once. That the whole harness notices is proved by `manage.py chaos --prove`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.local.chaos.audit import CHECKS, Evidence, Ticks, audit
from apps.local.chaos.journal import BadMessage, Errand, Journal, PlacedOrder, Promise
from apps.local.chaos.processes import Exit

Breakage = Callable[[Evidence], None]


def job(**values: Any) -> dict[str, Any]:
    stock = {"task": "tasks.lab_nothing", "kwargs": {}, "state": "succeeded", "token": 1, "attempts": 1, "crashes": 0}
    return {**stock, "lease_until": None, "result": None, "errors": [], **values}


def letter(job_id: str | None, text: str = "") -> dict[str, Any]:
    return {"job_id": job_id, "kind": "permanent", "text": text}


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """A run in which everything went well."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.accept([Promise("done", "lab_nothing"), Promise("sum", "lab_add", result=3), Promise("dead", "x", "dead")])
    journal.roll_back(["never"])
    journal.order(PlacedOrder("key", 7, "paid", attempts=1))
    journal.run_errand(Errand("an order over HTTP", 0.2))
    journal.bad_message(BadMessage("no id", "marker-1", "letter"))
    return Evidence(
        journal=journal,
        jobs={
            "done": job(),
            "sum": job(result=3),
            "dead": job(state="dead"),
            "effect": job(task="chaos.effect", token=2),
            "trace": job(task="chaos.trace"),
            "token": job(task="chaos.token", token=2, result=2),
            "charge": job(task="tasks.charge_customer", kwargs={"order_id": 7}),
            "tick": job(task="chaos.tick"),
        },
        letters=[letter("dead"), letter(None, "marker-1")],
        effects=[{"job_id": "effect", "token": 2}],
        traces={"trace"},
        history=[{"job_id": "done", "was": None, "became": "queued", "token": 0}],
        orders=[{"id": 7, "status": "paid", "request_key": "key", "charge_job": "charge"}],
        charges={"7": 1},
        messages_left=[],
        ticks=Ticks(["tick"], frozenset({"tick"}), 1),
    )


def test_a_run_in_which_everything_went_well_has_no_violations(evidence: Evidence) -> None:
    assert audit(evidence) == []


def lose(evidence: Evidence) -> None:
    del evidence.jobs["done"]


def end_otherwise(evidence: Evidence) -> None:
    evidence.jobs["done"]["state"] = "cancelled"


def leave_live(evidence: Evidence) -> None:
    evidence.jobs["done"]["state"] = "running"


def hold_a_lease(evidence: Evidence) -> None:
    evidence.jobs["done"]["lease_until"] = "tomorrow"


def end_twice(evidence: Evidence) -> None:
    evidence.history.append({"job_id": "done", "was": "succeeded", "became": "running", "token": 2})


def claim_twice(evidence: Evidence) -> None:
    evidence.history.append({"job_id": "done", "was": "running", "became": "running", "token": 2})


def resurrect(evidence: Evidence) -> None:
    evidence.jobs["never"] = job()


def run_and_delete_what_was_rolled_back(evidence: Evidence) -> None:
    evidence.history.append({"job_id": "never", "was": None, "became": "queued", "token": 0})


def tear(evidence: Evidence) -> None:
    evidence.journal.unknown.append([Promise("done", "lab_nothing"), Promise("missing", "lab_nothing")])


def forget_a_letter(evidence: Evidence) -> None:
    del evidence.letters[0]


def write_a_letter_twice(evidence: Evidence) -> None:
    evidence.letters.append(letter("dead"))


def write_a_letter_for_a_success(evidence: Evidence) -> None:
    evidence.letters.append(letter("done"))


def repeat_an_effect(evidence: Evidence) -> None:
    evidence.effects.append({"job_id": "effect", "token": 2})


def keep_an_older_attempts_effect(evidence: Evidence) -> None:
    evidence.effects[0]["token"] = 1


def succeed_without_running(evidence: Evidence) -> None:
    evidence.traces.clear()


def overwrite(evidence: Evidence) -> None:
    evidence.jobs["token"]["result"] = 1


def miscalculate(evidence: Evidence) -> None:
    evidence.jobs["sum"]["result"] = 4


def charge_twice(evidence: Evidence) -> None:
    evidence.charges["7"] = 2


def take_money_and_forget(evidence: Evidence) -> None:
    evidence.orders[0]["status"] = "placed"


def charge_nobody_knows_what(evidence: Evidence) -> None:
    evidence.charges["8"] = 1


def answer_with_another_order(evidence: Evidence) -> None:
    evidence.journal.orders[0] = replace(evidence.journal.orders[0], order_id=8)


def place_an_order_without_its_job(evidence: Evidence) -> None:
    del evidence.jobs["charge"]


def start_a_second_charge_job(evidence: Evidence) -> None:
    evidence.jobs["again"] = job(task="tasks.charge_customer", kwargs={"order_id": 7})


def drop_a_malformed_message(evidence: Evidence) -> None:
    del evidence.letters[1]


def leave_a_message(evidence: Evidence) -> None:
    evidence.messages_left.append("unacked: …")


def run_a_tick_twice(evidence: Evidence) -> None:
    evidence.ticks = Ticks(["tick", "other"], frozenset({"tick"}), 2)


def lose_a_tick(evidence: Evidence) -> None:
    evidence.ticks = Ticks(["tick"], frozenset({"tick"}), 2)


def skip_most_ticks(evidence: Evidence) -> None:
    evidence.ticks = Ticks(["tick"], frozenset({"tick", "next", "last"}), 1)


def let_beat_fall_silent(evidence: Evidence) -> None:
    evidence.ticks = Ticks(["tick"], frozenset({"tick"}), 1, silent=60)


def fall_silent(evidence: Evidence) -> None:
    evidence.silent_workers.append("worker-a (default)")


def crash(evidence: Evidence) -> None:
    evidence.exits.append(Exit("worker-a", "ended with code 1", 100.0))


def wait_for_a_frozen_broker(evidence: Evidence) -> None:
    evidence.journal.run_errand(Errand("an order over HTTP", 7.0))


def refuse_an_order_for_a_frozen_broker(evidence: Evidence) -> None:
    evidence.journal.run_errand(Errand("an order over HTTP", 0.1, "TimeoutError: the broker"))


BREAKAGES: dict[Breakage, str] = {
    lose: "an accepted job is in the ledger",
    end_otherwise: "an accepted job has ended as it must",
    leave_live: "no job is still live, and no lease is held",
    hold_a_lease: "no job is still live, and no lease is held",
    end_twice: "a job ends once, and moves only along the arrows",
    claim_twice: "a job ends once, and moves only along the arrows",
    resurrect: "a transaction that was rolled back left no job",
    run_and_delete_what_was_rolled_back: "a transaction that was rolled back left no job",
    tear: "a commit is all or nothing",
    forget_a_letter: "dead jobs and their letters are the same set",
    write_a_letter_twice: "dead jobs and their letters are the same set",
    write_a_letter_for_a_success: "dead jobs and their letters are the same set",
    repeat_an_effect: "an atomic job has its effect once, under its last token",
    keep_an_older_attempts_effect: "an atomic job has its effect once, under its last token",
    succeed_without_running: "a job that succeeded has run",
    overwrite: "no older attempt overwrote a newer one",
    miscalculate: "a result is the right one",
    charge_twice: "the sandbox's charges are the orders paid, one each",
    take_money_and_forget: "the sandbox's charges are the orders paid, one each",
    charge_nobody_knows_what: "the sandbox's charges are the orders paid, one each",
    answer_with_another_order: "a request that was repeated made one order, with one job",
    place_an_order_without_its_job: "a request that was repeated made one order, with one job",
    start_a_second_charge_job: "an order exists if and only if its job does",
    drop_a_malformed_message: "a malformed message became one letter, or one end",
    leave_a_message: "no message is left in the broker",
    run_a_tick_twice: "each tick of the schedule ran once",
    lose_a_tick: "each tick of the schedule ran once",
    skip_most_ticks: "each tick of the schedule ran once",
    let_beat_fall_silent: "each tick of the schedule ran once",
    fall_silent: "every worker takes jobs again",
    crash: "no process ended by itself",
    refuse_an_order_for_a_frozen_broker: "no request noticed that the broker was frozen",
    wait_for_a_frozen_broker: "no request noticed that the broker was frozen",
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_a_broken_promise_is_found(evidence: Evidence, breakage: Breakage) -> None:
    breakage(evidence)
    assert BREAKAGES[breakage] in {violation.check for violation in audit(evidence)}


def test_every_promise_can_be_broken() -> None:
    assert set(BREAKAGES.values()) == CHECKS.keys()


def test_of_a_commit_without_an_answer_all_jobs_may_be_missing(evidence: Evidence) -> None:
    evidence.journal.unknown.append([Promise("a", "lab_nothing"), Promise("b", "lab_nothing")])
    assert audit(evidence) == []


def test_of_a_commit_without_an_answer_that_happened_every_job_must_end(evidence: Evidence) -> None:
    evidence.journal.unknown.append([Promise("a", "lab_nothing")])
    evidence.jobs["a"] = job(state="queued")
    assert {violation.subject for violation in audit(evidence)} == {"a"}
