"""Everything in one run: first what a producer pays, with nobody else about; then the relay and the workers start."""

import argparse
from pathlib import Path

import django

from bench.rounds import FULL, QUICK, Measure, Sizes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--peers", choices=("with", "without", "only"), default="with")
    parser.add_argument("--only", choices=("pages",))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    django.setup()

    # These need the settings and the tasks, which are there only now.
    from django.core.management import call_command

    from bench import console, page, peers, report

    sizes = QUICK if options.quick else FULL
    call_command("migrate", "jobs", verbosity=0)
    machine = report.machine()
    figures = {"machine": report.facts(machine)}
    if options.peers != "only":
        measures = [] if options.only else next_to_plain(sizes, options.logs)
        pages = console.measure(sizes)
        figures |= {"plain": report.table(measures)} if measures else {}
        figures["pages"] = console.table(sizes.console_jobs, pages)
        if options.json:
            options.json.write_text(report.as_json(machine, measures, pages) + "\n")
    if options.peers != "without" and not options.only:
        rates = peers.measure(sizes.peer_rounds, sizes.peer_share, options.logs)
        figures["peers"] = peers.table(rates)
        (options.logs / page.CHART.name).write_text(peers.chart(rates))
    print("\n\n".join(figures.values()))
    if options.write:
        page.publish(figures, options.logs / page.CHART.name)


def next_to_plain(sizes: Sizes, logs: Path) -> list[Measure]:
    """Plain Celery's worker and ours take turns."""
    from bench import drain, enqueue, latency, limit
    from bench.fleet import fleet

    measures = enqueue.measure(sizes) + limit.measure(sizes)
    with fleet(logs) as workers:
        return measures + drain.measure(workers, sizes) + latency.measure(workers, sizes)


if __name__ == "__main__":
    main()
