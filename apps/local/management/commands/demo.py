"""`manage.py demo`: everything, on this machine."""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.local import bootstrap, environment
from apps.local.exclusive import AlreadyRunning, exclusively
from apps.local.places import ROOT, VAR
from apps.local.postgres import ServerError
from apps.local.servers import BROKERS
from apps.local.stack import WEB_PORT, Interrupted, Stack, StartFailed
from apps.local.terminal import tell

BLOCK = """
  ────────────────────────────────────────────────────────────────────────────
   Nightshift is running. Orders keep coming, and now and then something breaks.

   Shop      {url}
             sign in as admin, password {ADMIN_PASSWORD}
             or as ada, bert or cleo, password nightshift
   Admin     {url}admin/   the same sign-in
   Flower    {flower}
   Sandbox   {SANDBOX_URL}/   what the pretended Stripe and supplier were asked
   Logs      {logs}/

   Stop      Ctrl-C (running jobs are finished first; press it twice to hurry)
  ────────────────────────────────────────────────────────────────────────────
"""


class Command(BaseCommand):
    help = "Run the whole system on this machine, with servers of its own and pretended third parties."
    # The settings of this process may name no server that is up; its children's do.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=WEB_PORT, help="of the shop; the next free one if it is busy")
        parser.add_argument("--quiet", action="store_true", help="no simulator: nothing happens by itself")
        parser.add_argument("--broker", choices=BROKERS, default="redis", help="another one than Redis")

    def handle(self, *, port: int, quiet: bool, broker: str, **_: Any) -> None:
        self.began = time.monotonic()
        try:
            with exclusively(VAR / "demo.lock") as leave_note:
                leave_note("is starting in another terminal")
                given = environment.given()
                # A killed demo could not, and this one's processes would read of its servers; `given` needs the file.
                environment.forget()
                stack = Stack(VAR, given, self.say, broker)
                self.run(stack, port, quiet, leave_note)
        except AlreadyRunning as other:
            raise CommandError(f"The demo {other}. Stop it there with Ctrl-C.") from other
        except (StartFailed, ServerError) as error:
            raise CommandError(str(error)) from error

    def run(self, stack: Stack, port: int, quiet: bool, leave_note: Callable[[str], None]) -> None:
        try:
            stack.start(port=port, simulator=not quiet)
            environment.write(stack.own)
            leave_note(f"is already running at {stack.url}")
            tell(self.stdout, block(stack))
            stack.watch()
        except Interrupted:
            pass
        finally:
            tell(self.stdout, "\nStopping; running jobs are finished first …")
            stack.stop()
            environment.forget()
            bootstrap.give_to_owner(VAR)
        tell(self.stdout, "Stopped. The data is kept, and the next start goes on with it.")

    def say(self, name: str, what: str) -> None:
        seconds = time.monotonic() - self.began
        tell(self.stdout, f"{seconds:6.1f} s  {self.style.HTTP_INFO(f'{name:<12}')} {what}")


def block(stack: Stack) -> str:
    logs = (stack.folder / "log").relative_to(ROOT)
    return BLOCK.format(url=stack.url, flower=flower(stack.environment), logs=logs, **stack.environment)


def flower(settings: Mapping[str, str]) -> str:
    if not settings["FLOWER_URL"]:
        return "not with this broker, which carries no events"
    user, _, password = settings["FLOWER_BASIC_AUTH"].partition(":")
    return f"{settings['FLOWER_URL']}/   {user}, password {password}"
