"""What becomes of the figures."""

from pathlib import Path
from xml.etree import ElementTree

from bench import page, peers
from bench.chart import Bar, svg
from bench.peers import BASE, KEEPS, MAY_LOSE, Rate, Side


def side(name: str, promise: str) -> Side:
    return Side(name, promise, print, [])


RATES = [
    Rate(side(BASE, MAY_LOSE), [900.0, 1_000.0, 5_000.0]),
    Rate(side("Nightshift, durable", KEEPS), [3_000.0]),
]


def test_the_fastest_stands_first_with_its_ratio_and_its_promise() -> None:
    *_, first, second = peers.table(RATES).splitlines()
    assert first == f"| Nightshift, durable | 3.00 | 3,000 | {KEEPS} |"
    assert second == f"| {BASE} | 1.00 | 1,000 | {MAY_LOSE} |"


def test_the_chart_marks_who_may_lose_jobs() -> None:
    bars = [
        bar.get("class") for bar in ElementTree.fromstring(peers.chart(RATES)).iter("{http://www.w3.org/2000/svg}rect")
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
