"""`manage.py test`: pytest, on servers of its own."""

import os
import sys

from django.core.management.base import BaseCommand

from apps.local import environment
from apps.local.places import ROOT


class Command(BaseCommand):
    help = "Run the tests with pytest; every argument is pytest's: manage.py test tests/jobs -k claim"

    def run_from_argv(self, argv: list[str]) -> None:
        """Replace this process: its settings are loaded, and the tests bring other ones (tests/conftest.py)."""
        os.chdir(ROOT)
        given = environment.given()
        given.pop("DJANGO_SETTINGS_MODULE", None)
        os.execve(sys.executable, [sys.executable, "-m", "pytest", *argv[2:]], given)
