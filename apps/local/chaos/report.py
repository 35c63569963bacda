"""What a run prints at its end: the faults, the jobs, and the verdict."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from apps.local.chaos.attack import Landed
from apps.local.chaos.audit import CHECKS, Evidence, Violation
from apps.local.chaos.plan import Plan

# More would drown the rest; all of them are in the folder.
SHOWN = 8


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """In Markdown, so that it can go into the documentation as it is."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(heads), *cells]) for column in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(heads), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, cells)]


def faults_table(landed: Sequence[Landed], evidence: Evidence, violations: Sequence[Violation]) -> list[str]:
    suspected = Counter(fault for violation in violations for fault in at_work_during(violation, evidence))
    rows = []
    for fault in sorted({each.strike.fault for each in landed}):
        hits = [each.hit for each in landed if each.strike.fault == fault]
        met = [hit for hit in hits if hit]
        number = sum(hit.number for hit in met)
        what = f"{number} {met[0].what}" if met else "nothing"
        # What met nothing proves nothing.
        outcome = f"{suspected[fault]} violations" if suspected[fault] else "recovered" if number else "not tried"
        rows.append([fault, len(hits), what, outcome])
    return table(["fault", "times", "met", "outcome"], rows)


def at_work_during(violation: Violation, evidence: Evidence) -> set[str]:
    """The faults that a job may have to thank for its violation: those that overlap with its life."""
    times = [move["at"] for move in evidence.history if move["job_id"] == violation.subject]
    return {window.fault for window in evidence.windows if times and window.overlaps(times[0], times[-1])}


def jobs_table(evidence: Evidence) -> list[str]:
    by_task: dict[str, Counter[str]] = defaultdict(Counter)
    for job in evidence.jobs.values():
        ends = by_task[job["task"]]
        ends[job["state"]] += 1
        ends["again"] += job["attempts"] > 1
        ends["crashes"] += job["crashes"]
    states = ["succeeded", "dead", "cancelled", "again", "crashes"]
    rows = [[task, sum(ends[state] for state in states[:3]), *(ends[state] for state in states)]
            for task, ends in sorted(by_task.items())]  # fmt: skip
    total = ["all", *(sum(row[column] for row in rows) for column in range(1, 7))]  # type: ignore[misc]
    return table(["task", "ended", "succeeded", "dead", "cancelled", "ran again", "crashes"], [*rows, total])


def checks_table(violations: Sequence[Violation]) -> list[str]:
    found = Counter(violation.check for violation in violations)
    checks = [*CHECKS, *(check for check in found if check not in CHECKS)]
    return table(["promise", "outcome"], [[check, found[check] or "kept"] for check in checks])


def report(
    plan: Plan,
    landed: Sequence[Landed],
    evidence: Evidence,
    violations: Sequence[Violation],
    must_find: str | None = None,
) -> Iterator[str]:
    """`must_find`: the promise that cannot have been kept, because its safeguard was missing."""
    journal = evidence.journal
    yield ""
    yield from faults_table(landed, evidence, violations)
    yield ""
    yield from jobs_table(evidence)
    yield ""
    yield from checks_table(violations)
    yield ""
    yield (
        f"{len(journal.accepted)} jobs accepted in transactions, {len(journal.orders)} orders over HTTP"
        f" ({sum(order.attempts > 1 for order in journal.orders)} asked again), {len(journal.rolled_back)} rolled back,"
        f" {len(journal.unknown)} commits without an answer, {len(journal.bad_messages)} malformed messages."
    )
    for violation in violations[:SHOWN]:
        yield f"VIOLATION  {violation.check}: {violation.subject}: {violation.sentence}"
    if len(violations) > SHOWN:
        yield f"… and {len(violations) - SHOWN} more."
    yield f"Seed {plan.seed}: {verdict(violations, must_find)}."


def verdict(violations: Sequence[Violation], must_find: str | None) -> str:
    plain = f"FAILED with {len(violations)} violations" if violations else "PASSED"
    if must_find is None:
        return plain
    if any(violation.check == must_find for violation in violations):
        return f"FAILED, as it must, with {len(violations)} violations"
    return f"{plain}, and did not notice what was missing: “{must_find}” was kept"
