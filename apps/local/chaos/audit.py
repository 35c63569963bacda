"""The audit: what was promised against what is there. Pure functions, from the two truths to violations.

One truth is the journal: what the producers were answered. The other is what PostgreSQL, the broker and the sandbox
hold when everything has come to rest.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from apps.local.chaos.journal import BadMessage, Journal, Promise
from apps.local.chaos.processes import Exit

ENDED = ("succeeded", "dead", "cancelled")
# Every arrow of the state diagram. A repeated state stands for a claim that raised the token of a running job.
LEGAL = {
    (None, "queued"),
    ("queued", "sent"),
    ("queued", "running"),
    ("sent", "running"),
    ("sent", "queued"),
    ("running", "queued"),
    ("running", "succeeded"),
    *((state, end) for state in ("queued", "sent", "running") for end in ("dead", "cancelled")),
}
# A request that meets a frozen broker must not wait for it at all; this is what a busy machine may add.
PATIENCE_OF_A_CUSTOMER = 5.0
# Ticks in which no beat or no database is there are skipped, as the schedule's rule says; most are not such.
LEAST_TICKS = 0.4
LONGEST_SILENCE = 30.0


@dataclass(frozen=True)
class Violation:
    check: str
    subject: str
    sentence: str


@dataclass(frozen=True)
class Window:
    """When a fault was at work, in Unix time."""

    fault: str
    began: float
    ended: float

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began < ended and began < self.ended


@dataclass(frozen=True)
class Ticks:
    """A schedule's runs by job id, the ids that its ticks give their jobs, and how many runs beat has noted.

    silent: from the last run to the end of the faults, in seconds.
    """

    runs: list[str] = field(default_factory=list)
    possible: frozenset[str] = frozenset()
    noted: int = 0
    silent: float = 0.0


@dataclass
class Evidence:
    """What is there at the end. Ids are strings, rows are mappings of column to value."""

    journal: Journal
    jobs: dict[str, dict[str, Any]]
    letters: list[dict[str, Any]]
    effects: list[dict[str, Any]]
    traces: set[str]
    history: list[dict[str, Any]]
    orders: list[dict[str, Any]]
    charges: dict[str, int]
    messages_left: list[str]
    ticks: Ticks = field(default_factory=Ticks)
    silent_workers: list[str] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

    def promises(self) -> Iterator[Promise]:
        """Accepted for certain, or in a commit whose answer was lost and that turns out to have happened."""
        yield from self.journal.accepted.values()
        for transaction in self.journal.unknown:
            if any(promise.job_id in self.jobs for promise in transaction):
                yield from transaction


Check = Callable[[Evidence], Iterator[Violation]]
CHECKS: dict[str, Check] = {}


def check(sentence: str) -> Callable[[Callable[[Evidence], Iterator[tuple[str, str]]]], None]:
    """Register a check under the promise that it keeps. It yields pairs: the subject, and what is wrong with it."""

    def register(find: Callable[[Evidence], Iterator[tuple[str, str]]]) -> None:
        CHECKS[sentence] = lambda evidence: (Violation(sentence, *pair) for pair in find(evidence))

    return register


def audit(evidence: Evidence) -> list[Violation]:
    return [violation for find in CHECKS.values() for violation in find(evidence)]


@check("an accepted job is in the ledger")
def lost(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for promise in evidence.promises():
        if promise.job_id not in evidence.jobs:
            yield promise.job_id, f"{promise.task} was accepted and is not there"


@check("an accepted job has ended as it must")
def ended_otherwise(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for promise in evidence.promises():
        job = evidence.jobs.get(promise.job_id)
        if job and job["state"] in ENDED and job["state"] != promise.end:
            yield promise.job_id, f"{promise.task} is {job['state']}, not {promise.end}: {_last_error(job)}"


def _last_error(job: dict[str, Any]) -> str:
    return f"{job['errors'][-1]['kind']}: {job['errors'][-1]['message']}" if job["errors"] else "no error"


@check("no job is still live, and no lease is held")
def unfinished(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for job_id, job in evidence.jobs.items():
        if job["state"] not in ENDED or job["lease_until"] is not None:
            yield job_id, f"{job['task']} is {job['state']} (attempts {job['attempts']}, crashes {job['crashes']})"


@check("a job ends once, and moves only along the arrows")
def illegal_moves(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for move in evidence.history:
        if (move["was"], move["became"]) not in LEGAL:
            yield move["job_id"], f"it went from {move['was']} to {move['became']} (token {move['token']})"


@check("a transaction that was rolled back left no job")
def resurrected(evidence: Evidence) -> Iterator[tuple[str, str]]:
    seen = evidence.jobs.keys() | {move["job_id"] for move in evidence.history}
    for job_id in evidence.journal.rolled_back & seen:
        yield job_id, "its transaction was rolled back"


@check("a commit is all or nothing")
def torn(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Of the jobs that a transaction records itself; the rest of a chain, and a chord's body, come later."""
    for transaction in evidence.journal.unknown:
        first = [promise for promise in transaction if promise.task not in ("chain", "chord")]
        there = [promise.job_id in evidence.jobs for promise in first]
        if any(there) and not all(there):
            missing = [promise.job_id for promise in first if promise.job_id not in evidence.jobs]
            yield missing[0], f"{len(missing)} of {len(first)} jobs of one transaction are missing"


@check("dead jobs and their letters are the same set")
def letters(evidence: Evidence) -> Iterator[tuple[str, str]]:
    written = Counter(str(letter["job_id"]) for letter in evidence.letters if letter["job_id"])
    for job_id, job in evidence.jobs.items():
        if job["state"] == "dead" and written[job_id] != 1:
            yield job_id, f"{job['task']} is dead and has {written[job_id]} letters"
        if job["state"] != "dead" and written[job_id]:
            yield job_id, f"{job['task']} is {job['state']} and has a letter"


@check("an atomic job has its effect once, under its last token")
def effects(evidence: Evidence) -> Iterator[tuple[str, str]]:
    tokens = defaultdict(list)
    for effect in evidence.effects:
        tokens[str(effect["job_id"])].append(effect["token"])
    for job_id, job in evidence.jobs.items():
        expected = [job["token"]] if job["task"] == "chaos.effect" and job["state"] == "succeeded" else []
        if tokens[job_id] != expected:
            yield job_id, f"it is {job['state']} with token {job['token']}, and has effects of tokens {tokens[job_id]}"


@check("a job that succeeded has run")
def never_ran(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Of those that leave a row outside of the transaction that ends them: it is there first."""
    for job_id, job in evidence.jobs.items():
        if job["task"] == "chaos.trace" and job["state"] == "succeeded" and job_id not in evidence.traces:
            yield job_id, f"it is {job['state']} with token {job['token']}, and its body left no row"


@check("no older attempt overwrote a newer one")
def overwritten(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for job_id, job in evidence.jobs.items():
        if job["task"] == "chaos.token" and job["state"] == "succeeded" and job["result"] != job["token"]:
            yield job_id, f"its end was written by attempt {job['result']}, and attempt {job['token']} was the last"


@check("a result is the right one")
def results(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for promise in evidence.promises():
        job = evidence.jobs.get(promise.job_id)
        if promise.result is not None and job and job["state"] == "succeeded" and job["result"] != promise.result:
            yield promise.job_id, f"{promise.task} has the result {job['result']}, not {promise.result}"


@check("the sandbox's charges are the orders paid, one each")
def charges(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for order in evidence.orders:
        number, expected = evidence.charges.get(str(order["id"]), 0), int(order["status"] == "paid")
        if number != expected:
            yield f"order {order['id']}", f"it is {order['status']}, and was charged {number} times"
    known = {str(order["id"]) for order in evidence.orders}
    for order_id in evidence.charges.keys() - known:
        yield f"order {order_id}", "it was charged, and there is no such order"


@check("a request that was repeated made one order, with one job")
def placed_orders(evidence: Evidence) -> Iterator[tuple[str, str]]:
    by_key = {order["request_key"]: order for order in evidence.orders}
    for placed in evidence.journal.orders:
        order = by_key.get(placed.request_key)
        if order is None or order["id"] != placed.order_id:
            yield f"order {placed.order_id}", f"the answer named this order, and the request made {order}"
        elif str(order["charge_job"]) not in evidence.jobs:
            yield f"order {placed.order_id}", "it was written without its job"
        elif order["status"] != placed.end:
            yield f"order {placed.order_id}", f"it is {order['status']}, not {placed.end}"


@check("an order exists if and only if its job does")
def orders_and_jobs(evidence: Evidence) -> Iterator[tuple[str, str]]:
    charged = Counter(
        str(job["kwargs"].get("order_id")) for job in evidence.jobs.values() if job["task"] == "tasks.charge_customer"
    )
    for order in evidence.orders:
        if charged.pop(str(order["id"]), 0) != 1:
            yield f"order {order['id']}", "it does not have one job"
    for order_id in charged:
        yield f"order {order_id}", "its job exists, and it does not"


@check("a malformed message became one letter, or one end")
def malformed(evidence: Evidence) -> Iterator[tuple[str, str]]:
    texts = [letter["text"] for letter in evidence.letters]
    for message in evidence.journal.bad_messages:
        wrong = _wrong_with(message, evidence, texts)
        if wrong:
            yield message.kind, wrong


def _wrong_with(message: BadMessage, evidence: Evidence, texts: list[str]) -> str:
    if message.becomes == "letter":
        found = sum(message.marker in text for text in texts)
        return "" if found == 1 else f"it has {found} letters (marker {message.marker})"
    job = evidence.jobs.get(message.job_id)
    return "" if job and job["state"] in ENDED else f"its job is {job and job['state']}"


@check("no message is left in the broker")
def leftovers(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for message in evidence.messages_left:
        yield "broker", message[:500]


@check("each tick of the schedule ran once")
def ticks(evidence: Evidence) -> Iterator[tuple[str, str]]:
    found = evidence.ticks
    if len(found.runs) < len(found.possible) * LEAST_TICKS:
        yield "schedule", f"it ran {len(found.runs)} times, of {len(found.possible)} ticks"
    if found.silent > LONGEST_SILENCE:
        yield "schedule", f"in the last {found.silent:.0f} s it did not run"
    for run in found.runs:
        if run not in found.possible:
            yield run, "it ran for a time at which there is no tick"
    if found.noted != len(found.runs):
        yield "schedule", f"beat noted {found.noted} runs, and there are {len(found.runs)} jobs"


@check("every worker takes jobs again")
def silent_workers(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for worker in evidence.silent_workers:
        yield worker, "it took no canary from one of its queues"


@check("no process ended by itself")
def exits(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for gone in evidence.exits:
        at_work = [window.fault for window in evidence.windows if window.overlaps(gone.at - 5, gone.at)]
        yield gone.name, f"{gone.how}; at work: {', '.join(at_work) or 'nothing'}"


@check("no request noticed that the broker was frozen")
def slow_errands(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for errand in evidence.journal.errands:
        if errand.error or errand.seconds > PATIENCE_OF_A_CUSTOMER:
            yield errand.what, f"it took {errand.seconds:.1f} s" + (f": {errand.error}" if errand.error else "")
