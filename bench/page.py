"""Puts a run's figures into the documents, so that none in there was ever typed."""

import re
from collections.abc import Mapping
from pathlib import Path

from apps.local.places import ROOT

DOCS = ROOT / "docs"
PAGES = (DOCS / "performance.md", DOCS / "scaling.md", DOCS / "decisions" / "0005-what-it-costs.md")
CHART = DOCS / "performance.svg"
PIECE = re.compile(r"(<!-- figures: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(figures: Mapping[str, str], chart: str | None) -> None:
    for page in PAGES:
        fill(page, figures)
    if chart:
        CHART.write_text(chart)


def fill(page: Path, figures: Mapping[str, str]) -> None:
    """Each piece that was measured; what was not keeps the figures of an earlier run."""

    def piece(found: re.Match[str]) -> str:
        text = figures.get(found["name"])
        return found[0] if text is None else f"{found[1]}{text.strip()}\n{found[3]}"

    page.write_text(PIECE.sub(piece, page.read_text()))
