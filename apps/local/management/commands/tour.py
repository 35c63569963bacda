"""`manage.py tour`: every pattern once for real, the good way and the failing way, as a table."""

import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.local import environment
from apps.local.exclusive import AlreadyRunning, exclusively
from apps.local.places import ROOT, VAR
from apps.local.postgres import ServerError
from apps.local.servers import BROKERS
from apps.local.stack import WEB_PORT, Interrupted, Stack, StartFailed
from apps.local.terminal import tell

LOOK_EVERY = 0.1


@dataclass(frozen=True)
class Row:
    pattern: str
    way: str
    did: str
    seen: str
    seconds: float
    ok: bool


class Command(BaseCommand):
    help = "Run every pattern once, the good way and the failing way, and print a table. Exits with 1 if one fails."
    # The settings of this process may name no server that is up; its children's do.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--play", action="store_true", help="against what runs already: the environment's servers")
        parser.add_argument("--broker", choices=BROKERS, default="redis", help="another one than Redis")
        parser.add_argument("slugs", nargs="*", help="only these patterns, for example: idempotent-charge crash")

    def handle(self, *, play: bool, broker: str, slugs: list[str], **_: Any) -> None:
        if play:
            return self.play(slugs)
        self.began = time.monotonic()
        try:
            with exclusively(VAR / "tour.lock"):
                self.tour(Stack(VAR / "tour", environment.given(), self.say, broker), slugs)
        except AlreadyRunning as other:
            raise CommandError("The tour is already running on this machine.") from other
        except (StartFailed, ServerError) as error:
            raise CommandError(str(error)) from error
        return None

    def tour(self, stack: Stack, slugs: list[str]) -> None:
        """The acts need the stack's own settings, so they are played by a process that starts with them."""
        try:
            stack.start(port=WEB_PORT, simulator=False)
            guide = subprocess.run(
                [sys.executable, "manage.py", "tour", "--play", *slugs], cwd=ROOT, env=stack.environment, check=False
            )
        except Interrupted:
            raise CommandError("Stopped before the end.") from None
        finally:
            stack.stop()
        if guide.returncode:
            sys.exit(guide.returncode)

    def say(self, name: str, what: str) -> None:
        tell(self.stdout, f"{time.monotonic() - self.began:6.1f} s  {name:<12} {what}")

    def play(self, slugs: list[str]) -> None:
        rows = []
        for row in rows_of(slugs):
            self.stdout.write(self.line(row))
            self.stdout.flush()
            rows.append(row)
        failed = [row for row in rows if not row.ok]
        patterns = len({row.pattern for row in rows})
        seconds = sum(row.seconds for row in rows)
        self.stdout.write(f"\n{patterns} patterns, {len(rows)} acts in {seconds:.0f} s: {len(failed)} failed.")
        if failed:
            sys.exit(1)

    def line(self, row: Row) -> str:
        verdict = self.style.SUCCESS("ok  ") if row.ok else self.style.ERROR("FAIL")
        return f"{verdict} {row.pattern:<36} {row.way:<6} {row.seconds:5.1f} s  {row.did} → {row.seen}"


def rows_of(slugs: list[str]) -> Iterator[Row]:
    from django.contrib.auth.models import User

    from apps.home.patterns import patterns

    user = User.objects.get(username="admin")
    for pattern in patterns():
        if not slugs or pattern.slug in slugs:
            for way, act in (("run", pattern.run), ("break", pattern.break_)):
                yield play_one(pattern.title, way, act, user)


def play_one(title: str, way: str, act: Any, user: Any) -> Row:
    """Start it and look until it can be told whether the pattern held, or its time is up."""
    began = time.monotonic()
    try:
        started = act.start(user)
    except Exception as refusal:  # noqa: BLE001 - whatever an act raises is a row that failed
        expected = act.refusal is not None and isinstance(refusal, act.refusal)
        return Row(title, way, "Refused", str(refusal), time.monotonic() - began, expected)
    seen = act.seen(started.jobs)
    while seen.held is None and time.monotonic() - began < act.seconds:
        time.sleep(LOOK_EVERY)
        seen = act.seen(started.jobs)
    held = seen.held is True and act.refusal is None
    return Row(title, way, started.did, seen.sentence, time.monotonic() - began, held)
