"""`manage.py bench`: how fast, next to plain Celery; on servers of its own."""

import secrets
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.local import environment
from apps.local.exclusive import AlreadyRunning, exclusively
from apps.local.places import ROOT, VAR
from apps.local.throwaway import throwaway_servers


class Command(BaseCommand):
    help = "Measure how fast jobs are recorded, sent and run, next to plain Celery on the same machine."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json",
            type=lambda name: Path(name).resolve(),
            metavar="FILE",
            help="write every round's figures there, too",
        )
        parser.add_argument("--quick", action="store_true", help="a few jobs each: shows that it works, no more")
        parser.add_argument("--without-peers", action="store_true", help="no other systems, which takes half the time")
        parser.add_argument("--only", choices=("jobs", "growth", "pages"), help="a part of it alone")
        parser.add_argument(
            "--soak", type=float, metavar="MINUTES", help="nothing but so many minutes at 70 %% of the rate, with sizes"
        )
        parser.add_argument("--write", action="store_true", help="put the figures into the documents")

    def handle(self, **given: Any) -> None:
        logs = VAR / "bench" / ("quick" if given["quick"] else "full")
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        options = ["--logs", str(logs)]
        options += [f"--{name}={given[name]}" for name in ("json", "only", "soak") if given[name]]
        options += [f"--{name.replace('_', '-')}" for name in ("quick", "without_peers", "write") if given[name]]
        try:
            # Two at once would measure each other.
            with nullcontext() if given["quick"] else exclusively(VAR / "bench.lock"):
                code = run([sys.executable, "-m", "bench", *options])
        except AlreadyRunning as other:
            raise CommandError("Another bench is running on this machine.") from other
        if code:
            raise CommandError(f"The bench stopped with code {code} (see {logs}).")


def run(command: list[str]) -> int:
    """A process of its own, which starts with the settings of servers that are there for it alone."""
    with throwaway_servers({}, postgres_settings={}) as servers:
        return subprocess.run(command, cwd=ROOT, env=own_environment(servers), check=False).returncode


def own_environment(servers: dict[str, str]) -> dict[str, str]:
    """The settings of production: with DEBUG Django keeps a list of all queries. Plain Celery has databases apart."""
    given = {**environment.given(), **servers}
    # Every Celery application would take its broker from there, before its own settings.
    given.pop("CELERY_BROKER_URL", None)
    return {
        **given,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DEBUG": "0",
        "SANDBOX": "0",
        "SECRET_KEY": secrets.token_hex(16),
        "BENCH_PLAIN_URL": database(servers["REDIS_URL"], 1),
        "BENCH_STAMPS_URL": database(servers["REDIS_URL"], 2),
        "BENCH_PEER_URL": database(servers["REDIS_URL"], 3),
    }


def database(url: str, number: int) -> str:
    return f"{url.rpartition('/')[0]}/{number}"
