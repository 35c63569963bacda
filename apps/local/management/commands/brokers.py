"""`manage.py brokers`: the same tests on every broker, and the table of what holds."""

import subprocess
import sys
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from django.core.management.base import BaseCommand, CommandError

from apps.local import broker_table, environment, rabbitmq
from apps.local.places import ROOT, VAR, private_folder

DOCUMENT = ROOT / "docs" / "brokers.md"
BEGIN, END = "<!-- what holds: written by manage.py brokers --write -->\n", "<!-- end -->\n"
# Each spends more than half of its time waiting, so that three keep two cores busy.
AT_ONCE = 3
# Not a broker: each capability is broken on purpose, and its test has to fail. It takes longest, so it starts first.
SABOTAGE = "sabotage"
EVERYTHING = (SABOTAGE, *broker_table.EVERY, *broker_table.AGAIN)
CONFORMANCE = "tests/brokers/test_conformance.py"
# Of those that have others.
TESTS = {SABOTAGE: ["tests/brokers/test_sabotage.py"], "rabbitmq": [CONFORMANCE, "tests/brokers/test_rabbitmq.py"]}


class Command(BaseCommand):
    help = "Run the same tests on every broker, with real servers, and print what holds. Exits with 1 if one fails."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("brokers", nargs="*", metavar="broker", help=f"only these of {', '.join(EVERYTHING)}")
        parser.add_argument("--write", action="store_true", help="write the table into docs/brokers.md")

    def handle(self, *, brokers: list[str], write: bool, **_: Any) -> None:
        folder = private_folder(VAR / "brokers")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            runs = list(pool.map(lambda name: self.run_one(name, folder), self.chosen(brokers)))
        outcomes = {pair: outcome for run in runs for pair, outcome in run.items()}
        table = broker_table.markdown(outcomes)
        self.stdout.write(f"\n{table}")
        if write:
            put_into(DOCUMENT, table)
        if "failed" in outcomes.values():
            sys.exit(1)

    def chosen(self, brokers: list[str]) -> list[str]:
        """Those that are named, or all that this machine has."""
        if brokers:
            return checked(brokers)
        if rabbitmq.is_installed():
            return list(EVERYTHING)
        self.stdout.write(f"Without RabbitMQ. {rabbitmq.MISSING}")
        return [name for name in EVERYTHING if name != "rabbitmq"]

    def run_one(self, name: str, folder: Path) -> broker_table.Outcomes:
        report = folder / f"{name}.xml"
        report.unlink(missing_ok=True)
        given = environment.given()
        given.pop("DJANGO_SETTINGS_MODULE", None)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *TESTS.get(name, [CONFORMANCE]), f"--junitxml={report}"],
            cwd=ROOT,
            env={**given, "BROKERS": name},
            capture_output=True,
            text=True,
            check=False,
        )
        self.stdout.write(result.stdout if result.returncode else f"{name}: {result.stdout.splitlines()[-1]}")
        self.stdout.flush()
        outcomes = outcomes_in(report, name) if report.is_file() else {}
        return {**outcomes, ("run", name): "failed" if result.returncode else "passed"}


def checked(brokers: list[str]) -> list[str]:
    """What somebody names has to be there."""
    unknown = set(brokers).difference(EVERYTHING)
    if unknown:
        raise CommandError(f"There is no {', '.join(sorted(unknown))} here, only {', '.join(EVERYTHING)}.")
    if "rabbitmq" in brokers and not rabbitmq.is_installed():
        raise CommandError(rabbitmq.MISSING)
    return brokers


def outcomes_in(report: Path, broker: str) -> dict[tuple[str, str], str]:
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own file
        for prop in case.iter("property"):
            tags = {child.tag for child in case}
            bad = tags & {"failure", "error"}
            found[prop.attrib["value"], broker] = "failed" if bad else "skipped" if "skipped" in tags else "passed"
    return found


def put_into(document: Path, table: str) -> None:
    before, _, rest = document.read_text().partition(BEGIN)
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
