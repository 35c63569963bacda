"""The tables. Ratios first: a rate by itself says more about the machine than about the code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.chart import Bar, svg
from bench.drain import Drained
from bench.enqueue import THREADS, Rates
from bench.growth import LEAST, kept
from bench.growth import Rates as GrowthRates
from bench.idle import Idle
from bench.latency import p99
from bench.limit import Limits
from bench.sides import BASE, BROKER_ONLY, DURABLE, MAY_LOSE, SOLO, UNSENT, Side

WORKERS = {"plain Celery": BASE, "Nightshift": DURABLE}
FROM_THREADS = f"durable, ask for one, {THREADS} threads at once"
MEASURES = ("one", "many", "nothing", "write")


@dataclass(frozen=True)
class Figures:
    """Of one side: jobs a second, medians; None where another side's is the same, or nothing was measured."""

    side: Side
    one: float | None
    many: float | None
    nothing: float | None
    write: float | None
    cpu: float | None


@dataclass(frozen=True)
class Target:
    """`least` and `stretch` are times plain Celery's; or, with a unit, at most so much."""

    name: str
    figure: float
    least: float
    stretch: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.stretch is not None and self._reaches(self.stretch):
            return "stretch"
        return "met" if self._reaches(self.least) else "**missed**"

    def _reaches(self, wanted: float) -> bool:
        return self.figure <= wanted if self.unit else self.figure >= wanted

    def cells(self) -> list[str]:
        shown = f"{self.figure:.1f} {self.unit}" if self.unit else f"{self.figure:.2f}"
        return [self.name, shown, self._wanted(self.least), self._wanted(self.stretch), self.verdict]

    def _wanted(self, figure: float | None) -> str:
        if figure is None:
            return ""
        return f"≤ {figure:g} {self.unit}" if self.unit else f"≥ {figure:g} ×"


def figures(
    sides: Sequence[Side], asked: Mapping[str, Rates], drained: Mapping[str, Sequence[Drained]]
) -> dict[str, Figures]:
    return {side.name: of(side, asked.get(side.name, []), drained.get(side.name, [])) for side in sides}


def of(side: Side, asked: Rates, drained: Sequence[Drained]) -> Figures:
    return Figures(
        side,
        middle([one for one, _ in asked]),
        middle([many for _, many in asked]),
        middle([each.nothing for each in drained]),
        middle([each.write for each in drained]),
        middle([each.cpu for each in drained]),
    )


def middle(found: Sequence[float]) -> float | None:
    return median(found) if found else None


def targets(
    found: Mapping[str, Figures], by_threads: Mapping[str, Sequence[float]], milliseconds: Sequence[float]
) -> list[Target]:
    def ratio(measure: str, *names: str) -> float:
        best: float = max(getattr(found[name], measure) or 0.0 for name in names)
        return best / float(getattr(found[BASE], measure))

    one_of_many = median(by_threads[DURABLE]) / median(by_threads[BASE])
    return [
        Target("durable, ask for one", ratio("one", DURABLE), 1.3, 1.6),
        Target(FROM_THREADS, one_of_many, 1.3, 1.6),
        Target("durable, ask for many", ratio("many", DURABLE), 10, 20),
        Target("broker-only no-op, prefork of two", ratio("nothing", BROKER_ONLY), 3, 4),
        Target("broker-only no-op, best pool for two cores", ratio("nothing", BROKER_ONLY, BROKER_ONLY + SOLO), 8, 11),
        Target("durable no-op, prefork of two", ratio("nothing", DURABLE), 1.5, 3),
        Target("durable no-op, best pool for two cores", ratio("nothing", DURABLE, DURABLE + SOLO), 3, 5),
        Target("durable job with one write, prefork of two", ratio("write", DURABLE), 1.5),
        Target("durable job with one write, best pool for two cores", ratio("write", DURABLE, DURABLE + SOLO), 1.5),
        Target("commit → start, idle worker, p50", median(milliseconds), 10, 5, "ms"),
        Target("commit → start, idle worker, p99", p99(milliseconds), 50, None, "ms"),
    ]


def costs(asked: Sequence[Target]) -> list[Target]:
    """The same figures, against what was asked of the ledger's first version."""
    least = {"durable, ask for one": 1.2, FROM_THREADS: 1.2, "durable, ask for many": 8.0}
    least |= {"durable no-op, prefork of two": 0.6, "commit → start, idle worker, p50": 15.0}
    return [replace(target, least=least[target.name], stretch=None) for target in asked if target.name in least]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def targets_table(found: Sequence[Target]) -> str:
    header = ("", "ratio", "target", "stretch", "")
    return table(header, [target.cells() for target in found])


def systems_table(found: Mapping[str, Figures], limits: Limits | None) -> str:
    """Ours first, then the others, the fastest first."""
    base = found[BASE]
    ours = [each for each in found.values() if each.side.name.startswith("Nightshift")]
    others = sorted((each for each in found.values() if each not in ours), key=lambda each: -(each.nothing or 0))
    rows = [
        [each.side.name, *cells(each, base), f"{each.cpu:.2f}" if each.cpu else "–", each.side.promise]
        for each in [*ours, *others]
    ]
    header = ("", "ask for one", "ask for many", "no-op", "one write", "CPU, ms", "promise")
    return table(header, rows + (limit_rows(limits, base) if limits else []))


def cells(each: Figures, base: Figures) -> list[str]:
    return [cell(getattr(each, measure), getattr(base, measure)) for measure in MEASURES]


def cell(figure: float | None, base: float | None) -> str:
    if figure is None or not base:
        return "–"
    return f"**{figure / base:.2f}** ({figure:,.0f})"


def limit_rows(limits: Limits, base: Figures) -> list[list[str]]:
    one, many, durable, broker_only = (
        median(found) for found in (limits.one, limits.many, limits.durable, limits.broker_only)
    )
    asked = [cell(one, base.one), cell(many, base.many)]
    return [
        ["limit: durable, one process", *asked, cell(durable, base.nothing), "–", "–", "no task is called"],
        ["limit: broker-only, one process", "–", "–", cell(broker_only, base.nothing), "–", "–", "no task is called"],
    ]


def relay_line(limits: Limits) -> str:
    rate, cpu = median(limits.relay), median(limits.relay_cpu)
    return (
        f"A relay by itself publishes {rate:,.0f} jobs a second, and takes {cpu:.3f} ms of processor for each: at "
        f"1,000 jobs a second {cpu * 100:.0f} % of a core."
    )


def carries(found: Mapping[str, Figures], limits: Limits) -> str:
    """Plain rates, for who plans a fleet."""
    durable, solo, broker_only = found[DURABLE], found[DURABLE + SOLO], found[BROKER_ONLY]
    rows = [
        ["a process that asks, each job with its own commit", shown(durable.one)],
        ["a process that asks by `delay_many`", shown(durable.many)],
        ["a relay by itself", shown(median(limits.relay))],
        ["a prefork worker with two processes, jobs that do nothing", shown(durable.nothing)],
        ["… and the relay that sends them meanwhile", shown(found[UNSENT].nothing)],
        ["… jobs that write one row", shown(durable.write)],
        ["… broker-only jobs that do nothing", shown(broker_only.nothing)],
        ["two solo workers, jobs that do nothing", shown(solo.nothing)],
    ]
    return table(("on two cores that all shared", "jobs a second"), rows)


def shown(rate: float | None) -> str:
    return f"{rate:,.0f}" if rate else "–"


def asked_elsewhere(found: Mapping[str, Sequence[float]], base: Figures) -> str:
    rows = [[name, cell(median(rates), base.one)] for name, rates in found.items()]
    return table(("asking for one durable job", "ratio"), rows)


def idle_table(own: Sequence[Idle], started: Mapping[str, Sequence[float]], peers: Sequence[Idle]) -> str:
    medians = {f"{name}'s worker": median(started[side]) for name, side in WORKERS.items()}
    found = [*(replace(each, started=medians.get(each.name)) for each in own), *peers]
    rows = [[each.name, f"{each.cpu:.1f} %", f"{each.memory:,.0f} MB", as_milliseconds(each.started)] for each in found]
    return table(("with nothing to do", "of a core", "memory", "commit → start, p50"), rows)


def as_milliseconds(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:,.1f} ms"


def growth_table(found: dict[str, list[GrowthRates]], ended: int, waiting: int) -> str:
    states = {"for later": f"{waiting:,} for later", "in a backlog": f"{waiting:,} in a backlog"}
    rows = [
        [f"{ended:,} ended, {states[name]}", *(f"{share:.2f}" for share in shares), judged(shares)]
        for name, shares in kept(found).items()
    ]
    return table(("of the empty ledger's rate", "ask for one", "ask for many", "drain", f"≥ {LEAST}"), rows)


def judged(shares: Sequence[float]) -> str:
    return "met" if min(shares) >= LEAST else "**missed**"


def chart(found: Mapping[str, Figures]) -> str:
    base = found[BASE].nothing or 1.0
    ordered = sorted((each for each in found.values() if each.nothing), key=lambda each: -(each.nothing or 0))
    bars = [
        Bar(each.side.name, rate, f"{rate / base:.1f} × ({rate:,.0f} a second)", kind(each.side))
        for each in ordered
        if (rate := each.nothing)
    ]
    return svg("Jobs that do nothing, drained by two processes (yellow may lose jobs)", bars)


def kind(side: Side) -> str:
    if side.name.startswith("Nightshift"):
        return "ours"
    return "loses" if side.promise == MAY_LOSE else "theirs"
