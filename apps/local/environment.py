"""The environment of the demo, in `var/local.env` while it runs.

`config/env.py` reads that file, so a command typed in another terminal finds the demo's servers. What a person has set
(in the environment or in `.env`) always wins; what merely came out of the file is not taken for a person's wish.
"""

import os

from apps.local.places import VAR, write_private

LOCAL_ENV = VAR / "local.env"

# These name servers, which are gone when the demo is; the rest stays true.
SERVERS = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")


def read() -> dict[str, str]:
    if not LOCAL_ENV.is_file():
        return {}
    lines = LOCAL_ENV.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def given() -> dict[str, str]:
    """This process's environment without what it has from the file."""
    from_file = read()
    return {name: value for name, value in os.environ.items() if from_file.get(name) != value}
