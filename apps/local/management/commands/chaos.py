"""`manage.py chaos`: break everything, again and again, and audit what is left."""

import os
import secrets
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.local import environment
from apps.local.exclusive import AlreadyRunning, exclusively
from apps.local.places import ROOT, VAR
from apps.local.ports import any_port
from apps.local.postgres import ServerError

SETTINGS = "apps.local.chaos.settings"
JOBS = 1_000
# Another exit code than that of an audit that failed.
NO_VERDICT = 2


class Command(BaseCommand):
    help = "Run a mix of jobs on servers of its own while processes are killed and servers fail; then audit every job."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--jobs", type=int, default=JOBS)
        parser.add_argument("--seed", type=int, help="the same seed is the same plan; default: any")
        parser.add_argument("--seconds", type=float, help="of the attack; default: what the faults and the jobs need")
        parser.add_argument("--only", metavar="TEXT", action="append", help="only faults with this text in their name")
        parser.add_argument("--without", metavar="SAFEGUARD", help="take a safeguard out: the audit must fail")
        parser.add_argument("--prove", action="store_true", help="take each safeguard out in turn: all must fail")
        parser.add_argument(
            "--kills", type=int, metavar="WORKERS", help="nothing but this: kill so many workers at work"
        )
        parser.add_argument("--list", action="store_true", help="name the faults and the safeguards")

    def run_from_argv(self, argv: list[str]) -> None:
        """Begin again with the settings of a run: its servers' addresses must be known before Django is set up."""
        if os.environ.get("DJANGO_SETTINGS_MODULE") == SETTINGS:
            super().run_from_argv(argv)
        else:
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, *argv], own_environment())

    def handle(self, **options: Any) -> None:
        if options["list"]:
            self.list_faults()
        elif options["prove"]:
            with ended_in_a_sentence():
                self.prove()
        elif not (self.kill(**options) if options["kills"] else self.attack(**options)):
            raise SystemExit(1)

    def attack(
        self, jobs: int, seed: int | None, seconds: float | None, only: list[str] | None, without: str | None, **_: Any
    ) -> bool:
        # The models of these load with Django's settings, which `run_from_argv` has just replaced.
        from apps.local.chaos import proofs, sabotage
        from apps.local.chaos.faults import FAULTS
        from apps.local.chaos.plan import make_plan
        from apps.local.chaos.run import run

        if without and without not in sabotage.SAFEGUARDS:
            raise CommandError(f"There is no safeguard {without!r}, only {', '.join(sabotage.SAFEGUARDS)}.")
        seed = seed if seed is not None else secrets.randbelow(100_000)
        proof = proofs.PROOFS[without] if without else None
        only = only or (list(proof.faults) if proof else None)
        for text in only or ():
            if not any(text in name for name in FAULTS):
                raise CommandError("\n  ".join([f"No fault has {text!r} in its name. There are:", *FAULTS]))
        kinds = {name: fault.kind for name, fault in FAULTS.items() if not only or any(text in name for text in only)}
        plan = make_plan(seed, jobs, kinds, seconds or (proof.seconds if proof else None))
        sabotaged = {**os.environ, sabotage.VARIABLE: without} if without else dict(os.environ)
        with own_folder(f"{seed}{f'-without-{without}' if without else ''}") as folder:
            return run(plan, folder, sabotaged, proof, self.say)

    def kill(self, kills: int, seed: int | None, **_: Any) -> bool:
        from apps.local.chaos import kills as killing

        seed = seed if seed is not None else secrets.randbelow(100_000)
        with own_folder(f"kills-{seed}") as folder:
            return killing.run(kills, seed, folder, os.environ, self.say)

    def prove(self) -> None:
        from apps.local.chaos.proofs import PROOFS, SEED, is_proved

        unproved = []
        for safeguard, proof in PROOFS.items():
            self.say(f"Without {safeguard}: the audit must find that it is not so: “{proof.check}”")
            options = [f"--without={safeguard}", f"--seed={SEED}", f"--jobs={proof.jobs}"]
            code = subprocess.run([sys.executable, "manage.py", "chaos", *options], cwd=ROOT, check=False).returncode
            if not is_proved(safeguard, code):
                unproved.append(safeguard)
        if unproved:
            raise CommandError(f"The audit did not notice that these were missing: {', '.join(unproved)}.")
        self.say(f"The audit noticed of each of these that it was missing: {', '.join(PROOFS)}.")

    def list_faults(self) -> None:
        from apps.local.chaos.faults import FAULTS
        from apps.local.chaos.sabotage import SAFEGUARDS

        for heading, names in (("Faults:", FAULTS), ("Safeguards:", SAFEGUARDS)):
            self.say("\n  ".join([heading, *names]))

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


@contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """The folder of one run, which no other run of the same seed moves aside meanwhile."""
    from apps.local.chaos.stage import fresh_folder

    try:
        with exclusively(VAR / "chaos" / f"{name}.lock"):
            folder = fresh_folder(VAR / "chaos" / name)
            with ended_in_a_sentence(f" Logs and journal: {folder}"):
                yield folder
    except AlreadyRunning as other:
        raise CommandError(
            f"The run {name} is under way already: choose another seed.", returncode=NO_VERDICT
        ) from other


@contextmanager
def ended_in_a_sentence(more: str = "") -> Iterator[None]:
    """Not by a traceback, where the error says all that there is to say."""
    from apps.local.chaos.attack import NeverOver
    from apps.local.chaos.stage import StageFailed

    try:
        yield
    except (StageFailed, NeverOver, ServerError) as error:
        raise CommandError(f"{error}.{more}", returncode=NO_VERDICT) from error
    except KeyboardInterrupt:
        raise CommandError(f"Stopped before the end.{more}", returncode=NO_VERDICT) from None


def own_environment() -> dict[str, str]:
    """Addresses, keys and passwords of one run; a machine's own servers are never used, whatever names them."""
    postgres, valkey, web, sandbox, mail = (any_port() for _ in range(5))
    broker = f"redis://:{secrets.token_hex(8)}@127.0.0.1:{valkey}/0"
    third_parties = f"http://127.0.0.1:{sandbox}"
    return {
        **environment.given(),
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "DEBUG": "1",
        "SANDBOX": "1",
        "SECRET_KEY": secrets.token_hex(16),
        "DATABASE_URL": f"postgres://nightshift:{secrets.token_hex(8)}@127.0.0.1:{postgres}/nightshift",
        "REDIS_URL": broker,
        "CELERY_BROKER_URL": broker,
        "PORT": str(web),
        "SITE_URL": f"http://127.0.0.1:{web}",
        "SANDBOX_URL": third_parties,
        "STRIPE_API_KEY": "sk_test_nightshift",
        "STRIPE_API_BASE": third_parties,
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(8)}",
        "SUPPLIER_API_BASE": f"{third_parties}/supplier",
        "SUPPLIER_API_KEY": "supplier-test-key",
        "EMAIL_URL": f"smtp://127.0.0.1:{mail}",
        "ADMIN_PASSWORD": secrets.token_hex(8),
    }
