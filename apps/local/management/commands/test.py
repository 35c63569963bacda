"""`manage.py test`: pytest, on servers of its own."""

import os
import sys
from collections.abc import Mapping

from django.core.management.base import BaseCommand

from apps.local import environment
from apps.local.places import ROOT

# Most of what the slow tests do is wait for real processes, so there are more of these than small machines have cores.
# A file stays together: what its tests share is started once.
SIDE_BY_SIDE = ("--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")


class Command(BaseCommand):
    help = "Run all tests side by side; or pytest, with every argument its own: manage.py test tests/jobs -k claim"

    def run_from_argv(self, argv: list[str]) -> None:
        """Replace this process: its settings are loaded, and the tests bring other ones (tests/conftest.py)."""
        os.chdir(ROOT)
        given = environment.given()
        given.pop("DJANGO_SETTINGS_MODULE", None)
        os.execve(sys.executable, [sys.executable, "-m", "pytest", *(argv[2:] or how_to_run_all(given))], given)


def how_to_run_all(given: Mapping[str, str]) -> tuple[str, ...]:
    """One after the other on servers that somebody names, which the processes would have to share."""
    return () if {"DATABASE_URL", "REDIS_URL"} & given.keys() else SIDE_BY_SIDE
