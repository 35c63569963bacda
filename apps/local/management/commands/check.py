"""`manage.py check`: Django's checks, and then every tool that reads the code.

`make NAME` is `manage.py NAME` for all of them, so this command carries the name of one of Django's. What Django itself
calls, before a migration for instance, and `check` with any argument remain Django's alone.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from django.core.management.commands import check

from apps.local.places import ROOT


def tools() -> dict[str, Sequence[str | Path]]:
    """In the order of how long they take."""
    programs = Path(sys.executable).parent
    return {
        "lint": (programs / "ruff", "check", "--quiet"),
        "format": (programs / "ruff", "format", "--check"),
        "imports": (programs / "lint-imports",),
        # Django would warn that it cannot ask the database about its history; there need not be one here.
        "migrations": (sys.executable, "-W", "ignore", "manage.py", "makemigrations", "--check", "--dry-run"),
        "types": (programs / "mypy",),
    }


class Command(check.Command):
    def run_from_argv(self, argv: list[str]) -> None:
        super().run_from_argv(argv)
        if len(argv) == 2:
            failed = [name for name, command in tools().items() if not self.passes(name, command)]
            if failed:
                sys.exit(f"Not in order: {', '.join(failed)}.")

    def passes(self, name: str, command: Sequence[str | Path]) -> bool:
        """Silent unless something is wrong."""
        began = time.monotonic()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        passed = result.returncode == 0
        word = self.style.SUCCESS("ok") if passed else self.style.ERROR("failed")
        self.stdout.write(f"{name:<12}{word}  {time.monotonic() - began:.1f} s")
        if not passed:
            self.stdout.write(result.stdout + result.stderr)
        self.stdout.flush()
        return passed
