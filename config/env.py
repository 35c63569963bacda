"""The environment, read once, through typed readers that refuse nonsense with a sentence.

Order: the process's own environment, then `.env`, then `var/local.env`, which `manage.py demo` writes so that a
command typed in another terminal (`celery -A config worker`) finds the servers that the demo started. Below a command
that brings its own servers, ENV_FILES is 0 and neither file is read (`laptop.py` and `stack.py` in apps/local).
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parent.parent

FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
# Time-outs of more than ten years are a slip, and so large a number of seconds is no time at all to Python.
MOST_SECONDS = 10 * 365 * 24 * 3600
HAS_HOST = re.compile(r"https?://[^/\s]+")


class Env(environ.Env):
    """django-environ takes "ture" for false and "30s" for 30, and says of a wrong port not whose it is.

    A value that is empty, as in `NAME=`, counts as not set. No sentence repeats a value that may hold a password.
    """

    def flag(self, name: str, default: bool) -> bool:
        word = self._word(name).lower()
        if word and word not in FLAGS:
            raise ImproperlyConfigured(f"{name} is {word!r}, and has to be 1 or 0.")
        return FLAGS.get(word, default)

    def whole(self, name: str, default: int) -> int:
        word = self._word(name)
        if word and not re.fullmatch(r"[0-9]{1,9}", word):
            raise ImproperlyConfigured(f"{name} is {word!r}, and has to be a whole number, 0 or more.")
        return int(word or default)

    def seconds(self, name: str, default: float) -> timedelta:
        word = self._word(name)
        if word and not (re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", word) and 0 < float(word) <= MOST_SECONDS):
            raise ImproperlyConfigured(f"{name} is {word!r}, and has to be a number of seconds above 0, like 2.5.")
        return timedelta(seconds=float(word or default))

    def address(self, name: str, default: str) -> str:
        """Of a web server, without the slash behind it; an empty default allows none."""
        word = self._word(name) or default
        if word and not HAS_HOST.match(word):
            raise ImproperlyConfigured(f"{name} has to begin with http:// or https:// and a host name.")
        return word.rstrip("/")

    def database(self, name: str, default: str) -> dict[str, Any]:
        refusal = (
            f"{name} must name a PostgreSQL server (postgres://user:password@host:5432/name, with %-escapes for "
            "special characters in the password): the ledger needs SKIP LOCKED, LISTEN and partial indexes."
        )
        url = self._word(name) or default
        if not url.startswith(("postgres://", "postgresql://")):
            raise ImproperlyConfigured(refusal)
        try:
            return dict(self.db_url_config(url))
        except ValueError as error:
            raise ImproperlyConfigured(refusal) from error

    def mail_server(self, name: str, default: str) -> dict[str, Any]:
        try:
            return dict(self.email_url_config(self._word(name) or default))
        except (ValueError, ImproperlyConfigured) as error:
            raise ImproperlyConfigured(
                f"{name} must name a mail server (smtp+tls://user:password@host:587, with %-escapes for special "
                "characters in the password), or be consolemail://."
            ) from error

    def _word(self, name: str) -> str:
        word: str = self.str(name, "")
        return word.strip()


env = Env()

for _file in (ROOT / ".env", ROOT / "var" / "local.env"):
    if _file.is_file() and os.environ.get("ENV_FILES") != "0":
        env.read_env(_file)
