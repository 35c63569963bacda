"""A command that a person types, perhaps at a bad moment: what goes wrong is a sentence, and no traceback buries it."""

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseTrouble


class OperatorCommand(BaseCommand):
    def execute(self, *args: Any, **options: Any) -> None:
        """Raises CommandError, of which `--traceback` shows all."""
        try:
            super().execute(*args, **options)
            self.stdout.flush()
        except DatabaseTrouble as exc:
            raise CommandError(f"The database has not done it: {str(exc).strip()}") from exc
        except BrokenPipeError:
            # Whoever reads has seen enough, as `head` has. Python writes what is left when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
