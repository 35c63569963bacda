"""Everything in one run: first what a producer pays, with nobody else about; then the relay and the workers start."""

import argparse
from pathlib import Path

import django

from bench.rounds import FULL, QUICK


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, required=True)
    options = parser.parse_args()
    django.setup()

    # These need the settings and the tasks, which are there only now.
    from django.core.management import call_command

    from bench import console, drain, enqueue, latency, report
    from bench.fleet import fleet

    sizes = QUICK if options.quick else FULL
    call_command("migrate", "jobs", verbosity=0)
    machine = report.machine()
    measures = enqueue.measure(sizes)
    with fleet(options.logs) as workers:
        measures += drain.measure(workers, sizes)
        measures += latency.measure(workers, sizes)
    pages = console.measure(sizes)
    print(report.table(machine, measures))
    print(console.table(sizes.console_jobs, pages))
    if options.json:
        options.json.write_text(report.as_json(machine, measures, pages) + "\n")


if __name__ == "__main__":
    main()
