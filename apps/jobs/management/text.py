"""What commands print: fit for a terminal, whatever a job's arguments or errors contain."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any

from django.utils import timezone

UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns. Numbers stand right; the last column is as wide as it likes."""
    rows = [list(row) for row in rows]
    cells = [list(headings), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip_longest(*cells, fillvalue="")]
    right = {at for row in rows for at, cell in enumerate(row) if isinstance(cell, int)}
    lines = ("  ".join(_pad(cell, widths[at], at in right) for at, cell in enumerate(row)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _pad(cell: str, width: int, to_the_right: bool) -> str:
    return cell.rjust(width) if to_the_right else cell.ljust(width)


def plain(value: Any) -> str:
    """One line without control characters: an error message must not steer the operator's terminal."""
    lines = ("" if value is None else str(value)).splitlines()
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(lines))


def plain_lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.splitlines())


def shorten(text: str, width: int) -> str:
    text = plain(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def age(seconds: float) -> str:
    """In the largest unit that fits: `45s`, `12m`, `3d`."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def ago(moment: datetime) -> str:
    return age((timezone.now() - moment).total_seconds())
