#!/usr/bin/env python3
"""Every command of Nightshift; `manage.py help` lists them. On a machine with only Python it first sets itself up."""

import io
import os
import sys
from pathlib import Path


def main() -> None:
    if os.name == "nt":
        sys.exit("Nightshift runs on Linux and macOS. On Windows, run it inside WSL.")
    if sys.version_info < (3, 11):
        sys.exit(
            "Nightshift needs Python 3.11 or newer; this is {}.{}. Try: python3.12 manage.py".format(*sys.version_info)
        )

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no "…" gets a "?", and no command dies of it. (stderr does so by itself.)
        sys.stdout.reconfigure(errors="replace")
    # Python does so by itself, unless PYTHONSAFEPATH is set.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from apps.local import bootstrap, laptop

    if laptop.writes(sys.argv[1:]):
        bootstrap.require_writable()
    bootstrap.ensure()
    if laptop.is_local(sys.argv[1:]):
        laptop.prepare(sys.argv[1:])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        settings.INSTALLED_APPS  # noqa: B018 - reads the settings
    except ImproperlyConfigured as error:
        # A slip in the environment: a traceback would bury the sentence that says which.
        sys.exit(f"Nightshift cannot start: {error}")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
