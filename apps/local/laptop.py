"""The commands that run on a laptop with no settings at all, and the environment that they start in.

A terminal's variables are made for other programs. These commands and the processes below them talk to servers of
their own on this machine; what would get between them is taken out or set here, once, before anybody reads it.
Standard library only: a machine on which nothing is installed runs this.
"""

import os
import sys
from collections.abc import Sequence

HELP = {"help", "--help", "-h", "--version"}
COMMANDS = {*HELP, "bench", "brokers", "catalogue", "chaos", "demo", "simulate", "test", "tour"}

# These bring their own servers, and meet none that a file names for a person's work: the tests empty their Redis.
WITHOUT_FILES = {"bench", "brokers", "chaos", "test"}

# These keep locks, logs and data in var/.
WRITING = {"bench", "brokers", "chaos", "demo", "test", "tour"}

LOOPBACK = ("127.0.0.1", "localhost")

# Nothing ends TLS in front of the demo's pages, and its own processes ask for 127.0.0.1. A `.env` may say what holds
# for a server, so these are set, and not merely taken out.
PLAIN_HTTP = {
    "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1]",
    "BEHIND_PROXY": "0",
    "SECURE_SSL_REDIRECT": "0",
    "SECURE_HSTS_SECONDS": "0",
}

# What another project has told its Celery, which would believe it before our settings; they refuse it on a server.
OTHER_CELERYS = ("CELERY_RESULT_BACKEND", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")

SETTINGS, SETTINGS_OF_CHAOS = "config.settings", "apps.local.chaos.settings"


def is_local(arguments: Sequence[str]) -> bool:
    """`check` by itself reads the code; with an argument, as in `check --deploy`, it asks about this very server."""
    return COMMANDS.issuperset(arguments[:1]) or list(arguments) == ["check"]


def writes(arguments: Sequence[str]) -> bool:
    return bool(WRITING.intersection(arguments[:1]))


def prepare(arguments: Sequence[str]) -> None:
    os.environ.setdefault("DEBUG", "1")
    os.environ.setdefault("SANDBOX", os.environ["DEBUG"])
    # They start a dozen processes, which would compile the same 2,000 files each time: 3 s instead of 1.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Some of them begin with `python -m`, which would not find what is in this folder.
    os.environ.pop("PYTHONSAFEPATH", None)
    # What a shell or an editor has set for another project would be looked for in this folder, too.
    if os.environ.get("DJANGO_SETTINGS_MODULE") != SETTINGS_OF_CHAOS:
        os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
    if WITHOUT_FILES.intersection(arguments[:1]):
        os.environ["ENV_FILES"] = "0"
    os.environ.update(PLAIN_HTTP)
    for name in OTHER_CELERYS:
        os.environ.pop(name, None)
    forget_libpq()
    go_round_proxies()


def forget_libpq() -> None:
    """Of another server: with PGSSLMODE=require or PGHOSTADDR nobody reaches ours. DATABASE_URL can say all of it."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def go_round_proxies() -> None:
    """A proxy cannot know what 127.0.0.1 is here. Who reads one of the two names alone finds all of both."""
    named = f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}"
    hosts = dict.fromkeys([*(host.strip() for host in named.split(",") if host.strip()), *LOOPBACK])
    # "*" means every host only where it stands alone.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in hosts else ",".join(hosts)
