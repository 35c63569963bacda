"""The table, and what it was measured on."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from django.db import connection

from bench import disk, plain
from bench.console import Page
from bench.rounds import Measure

PACKAGES = ("celery", "kombu", "redis", "django", "psycopg")
SETTINGS = ("fsync", "synchronous_commit")
COLUMNS = ("", "ratio", "plain Celery", "Nightshift", "unit", "target")


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


def facts(about: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def table(measures: Sequence[Measure]) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(row(measure) for measure in measures)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", "Medians of rounds in turns; a ratio is Nightshift's figure to plain's."])


def row(measure: Measure) -> tuple[str, ...]:
    figures = (shown(median(side)) for side in (measure.plain, measure.nightshift))
    return (measure.name, f"{measure.ratio:.2f}", *figures, measure.unit, target(measure))


def shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"


def target(measure: Measure) -> str:
    if measure.is_met is None:
        return "–"
    wanted = f"≥ {measure.ratio_target} ×" if measure.ratio_target else f"≤ {measure.limit:g} {measure.unit}"
    return f"{wanted}  {'met' if measure.is_met else 'MISSED'}"


def as_json(about: Mapping[str, str], measures: Sequence[Measure], pages: Sequence[Page]) -> str:
    found = {
        "machine": about,
        "measures": [figures(measure) for measure in measures],
        "pages": [{**vars(page), "met": page.is_met} for page in pages],
    }
    return json.dumps(found, indent=2)


def figures(measure: Measure) -> dict[str, object]:
    """All rounds, so that their spread can be seen."""
    return {**vars(measure), "ratio": measure.ratio, "met": measure.is_met}
