"""What it was measured on."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from django.db import connection

from bench import disk, plain

PACKAGES = ("celery", "kombu", "redis", "django", "psycopg")
SETTINGS = ("fsync", "synchronous_commit")


def machine() -> dict[str, str]:
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "PostgreSQL": postgres(),
        "Valkey": valkey(),
    }


def processor() -> str:
    """Linux hides the model's name in a file; elsewhere Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def postgres() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [["server_version", *SETTINGS]])
        shown = dict(cursor.fetchall())
    commit = f"a commit takes {disk.milliseconds_a_commit():.2f} ms"
    return ", ".join([shown["server_version"], *(f"{name} {shown[name]}" for name in SETTINGS), commit])


def valkey() -> str:
    with plain.app.connection_for_read() as broker:
        client = broker.default_channel.client
        about = client.info("server")
        kept = client.config_get("appendonly")["appendonly"]
    return f"{about.get('valkey_version', about['redis_version'])}, appendonly {kept}"


def described(about: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in about.items())
