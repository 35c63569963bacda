"""What becomes of the figures."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import page, report
from bench.chart import Bar, svg
from bench.report import Figures, Target
from bench.sides import BASE, DURABLE, KEEPS, MAY_LOSE, Side


def figures(name: str, promise: str, nothing: float) -> Figures:
    side = Side(name, promise, print, None, [])
    return Figures(side, one=100.0, many=None, nothing=nothing, write=50.0, cpu=0.25)


FOUND = {BASE: figures(BASE, MAY_LOSE, 1_000.0), DURABLE: figures(DURABLE, KEEPS, 3_000.0)}


def test_ours_stand_first_with_their_ratios_and_promises() -> None:
    *_, first, second = report.systems_table(FOUND, None).splitlines()
    assert first == f"| {DURABLE} | **1.00** (100) | – | **3.00** (3,000) | **1.00** (50) | 0.25 | {KEEPS} |"
    assert second == f"| {BASE} | **1.00** (100) | – | **1.00** (1,000) | **1.00** (50) | 0.25 | {MAY_LOSE} |"


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("rate", 1.3, 1.3, 1.6), "met"),
        (Target("rate", 1.29, 1.3, 1.6), "**missed**"),
        (Target("rate", 1.6, 1.3, 1.6), "stretch"),
        (Target("time", 10.0, 10.0, 5.0, "ms"), "met"),
        (Target("time", 10.1, 10.0, unit="ms"), "**missed**"),
        (Target("time", 4.9, 10.0, 5.0, "ms"), "stretch"),
    ],
)
def test_a_target_is_missed_met_or_outdone(target: Target, verdict: str) -> None:
    assert target.verdict == verdict


def test_the_chart_marks_who_may_lose_jobs() -> None:
    bars = [
        bar.get("class") for bar in ElementTree.fromstring(report.chart(FOUND)).iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert bars == ["ours", "loses"]


def test_a_chart_outlives_any_label() -> None:
    ElementTree.fromstring(svg("<&>", [Bar('"<&>"', 1.0, "<&>", "ours")]))


def test_only_what_was_measured_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- figures: one -->\nold\n<!-- end -->\n<!-- figures: two -->\nold\n<!-- end -->\n")
    page.fill(document, {"two": "new"})
    assert document.read_text() == (
        "<!-- figures: one -->\nold\n<!-- end -->\n<!-- figures: two -->\nnew\n<!-- end -->\n"
    )
