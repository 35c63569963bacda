"""The environment of the demo, in `var/local.env` while it runs.

`config/env.py` reads that file, so a command typed in another terminal finds the demo's servers. What a person has set
(in the environment or in `.env`) always wins; what merely came out of the file is not taken for a person's wish.
"""

import os

from apps.local.places import VAR, write_private

LOCAL_ENV = VAR / "local.env"


def read() -> dict[str, str]:
    if not LOCAL_ENV.is_file():
        return {}
    lines = LOCAL_ENV.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def given() -> dict[str, str]:
    """This process's environment without what it has from the file."""
    from_file = read()
    return {name: value for name, value in os.environ.items() if from_file.get(name) != value}


def write(values: dict[str, str]) -> None:
    header = "# Written by `manage.py demo`, for commands in other terminals. Changes are overwritten.\n"
    write_private(LOCAL_ENV, header + "".join(f"{name}={value}\n" for name, value in values.items()))


def forget() -> None:
    """When the servers are gone. What is started in this folder later may be for real, and must not find DEBUG=1."""
    LOCAL_ENV.unlink(missing_ok=True)
