"""The parts of a run, and what is shown of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import console, drain, enqueue, growth, idle, latency, limit, machine, peers, report
from bench.ours import own_sides
from bench.rounds import Sizes
from bench.sides import BASE, DURABLE, UNSENT, Side


@dataclass
class Run:
    """figures: what is printed, and put into the pages, by the names of the places there. rounds: all there is."""

    sizes: Sizes
    logs: Path
    with_peers: bool
    figures: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, Any] = field(default_factory=dict)
    chart: str | None = None

    def __post_init__(self) -> None:
        self.rounds["machine"] = machine.machine()
        self.figures["machine"] = machine.described(self.rounds["machine"])
        self.own = {side.name: side for side in own_sides()}

    def jobs(self) -> None:
        others = peers.peers() if self.with_peers else []
        sides: list[Side] = [*self.own.values(), *others]
        asked = enqueue.measure(sides, self.sizes)
        by_threads = enqueue.by_threads(self.sizes)
        elsewhere = enqueue.without_waiting_for_the_disk(self.sizes)
        limits = limit.measure(self.sizes)
        idling = idle.measure(self.own, self.sizes, self.logs)
        idling_peers = idle.measure_peers(others, self.sizes, self.logs)
        started = latency.measure(self.own, self.sizes, self.logs)
        drained = drain.measure(sides, self.sizes, self.logs)
        found = report.figures(sides, asked, drained)
        self.rounds |= {"asked": asked, "by_threads": by_threads, "elsewhere": elsewhere, "limits": limits}
        self.rounds |= {"started": started, "idle": [*idling, *idling_peers], "drained": drained}
        targets = report.targets(found, by_threads, started[DURABLE])
        self.figures |= {
            "targets": report.targets_table(targets),
            "costs": report.targets_table(report.costs(targets)),
            "systems": report.systems_table(found, limits),
            "disk": report.asked_elsewhere(elsewhere, found[BASE]),
            "relay": report.relay_line(limits),
            "carries": report.carries(found, limits),
            "idle": report.idle_table(idling, started, idling_peers),
        }
        if self.with_peers:
            self.chart = report.chart(found)
            self.figures["chart"] = "![Jobs that do nothing, drained by two processes](performance.svg)"

    def growth(self) -> None:
        found = growth.measure(self.own[UNSENT], self.sizes, self.logs)
        self.rounds["growth"] = found
        self.figures["growth"] = report.growth_table(found, self.sizes.ended_jobs, self.sizes.waiting_jobs)

    def pages(self) -> None:
        found = console.measure(self.sizes)
        self.rounds["pages"] = found
        self.figures["pages"] = console.table(self.sizes.console_jobs, found)
