"""Puts a run's figures into `docs/performance.md`, so that none in there was ever typed."""

import re
from pathlib import Path

from apps.local.places import ROOT

PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"
PIECE = re.compile(r"(<!-- figures: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(figures: dict[str, str], chart: Path) -> None:
    fill(PAGE, figures)
    if "peers" in figures:
        CHART.write_text(chart.read_text())


def fill(page: Path, figures: dict[str, str]) -> None:
    """Each piece that was measured; what was not keeps the figures of an earlier run."""

    def piece(found: re.Match[str]) -> str:
        text = figures.get(found["name"])
        return found[0] if text is None else f"{found[1]}{text.strip()}\n{found[3]}"

    page.write_text(PIECE.sub(piece, page.read_text()))
