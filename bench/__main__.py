"""Everything in one run. What is asked for with `--only` is measured alone."""

import argparse
import json
from pathlib import Path

import django

from bench.rounds import FULL, QUICK

PARTS = ("jobs", "growth", "pages")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    django.setup()

    # These need the settings and the tasks, which are there only now.
    from django.core.management import call_command

    from bench import page, peers, runs, soak

    sizes = QUICK if options.quick else FULL
    call_command("migrate", "jobs", verbosity=0)
    peers.make_database()
    if options.soak:
        soak.run(sizes, options.logs, options.soak)
        return
    run = runs.Run(sizes, options.logs, with_peers=not options.without_peers)
    for part in [options.only] if options.only else PARTS:
        getattr(run, part)()
    print("\n\n".join(run.figures.values()))
    if options.json:
        options.json.write_text(json.dumps(run.rounds, indent=2, default=vars) + "\n")
    if options.write:
        page.publish(run.figures, run.chart)


if __name__ == "__main__":
    main()
