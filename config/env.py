"""The environment, read once, through typed readers that refuse nonsense with a sentence.

Order: the process's own environment, then `.env`, then `var/local.env`, which `manage.py demo` writes so that a
command typed in another terminal (`celery -A config worker`) finds the servers that the demo started.
"""

from pathlib import Path

import environ

ROOT = Path(__file__).resolve().parent.parent

env = environ.Env()

for _file in (ROOT / ".env", ROOT / "var" / "local.env"):
    if _file.is_file():
        env.read_env(_file)
