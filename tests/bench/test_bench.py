"""The bench itself: that it runs from end to end, and that it judges figures rightly.

All of it is two minutes of starting and stopping processes, so that is run for who asks for it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.conf import settings

from bench.console import Page
from bench.growth import Rates, kept
from bench.rounds import alternate

whole = pytest.mark.skipif("BENCH" not in os.environ, reason="BENCH=quick")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """What it printed, and what it wrote."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    return run("--quick", "--without-peers", "--json", str(file)), json.loads(file.read_text())


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", "bench", *options],
        cwd=settings.BASE_DIR,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@whole
def test_a_quick_run_measures_everything_on_servers_of_its_own(quick_run: tuple[str, dict[str, object]]) -> None:
    printed, _ = quick_run
    for measured in (
        *(
            "durable, ask for one",
            "threads at once",
            "best pool for two cores",
            "one write",
            "commit → start, idle worker, p99",
        ),
        *("two solo workers", "atomic", "limit", "A relay by itself", "with nothing to do", "in a backlog"),
    ):
        assert measured in printed
    assert "fsync on, synchronous_commit on" in printed


@whole
def test_the_file_holds_every_round_and_the_machine(quick_run: tuple[str, dict[str, object]]) -> None:
    _, written = quick_run
    assert {"machine", "asked", "by_threads", "drained", "started", "idle", "limits", "growth", "pages"} <= set(written)


def test_only_the_pages_are_measured_for_who_asks_for_them() -> None:
    printed = run("--quick", "--only", "pages")
    for page in (
        "dashboard, the last day",
        "jobs, by an error",
        "dead letters, by cause",
        "health, workers",
        "metrics",
    ):
        assert page in printed
    assert "no-op" not in printed


@whole
def test_a_soak_prints_the_sizes_of_processes_and_tables() -> None:
    printed = run("--quick", "--soak", "0.05")
    assert "autovacuum" in printed
    assert len(printed.splitlines()) >= 5


def test_a_page_is_met_below_its_limit() -> None:
    assert Page("jobs", [150.0, 199.0, 900.0]).is_met
    assert not Page("jobs", [200.0]).is_met
    assert not Page("health, ready", [20.0]).is_met


def test_sides_take_turns() -> None:
    calls: list[str] = []

    def side(name: str, figure: float) -> Callable[[], float]:
        def take() -> float:
            calls.append(name)
            return figure

        return take

    assert alternate(2, [side("plain", 1.0), side("ours", 2.0)]) == [[1.0, 1.0], [2.0, 2.0]]
    assert calls == ["plain", "ours"] * 2


def test_what_a_full_ledger_keeps_is_measured_by_the_empty_ones_median() -> None:
    empty = [Rates(100.0, 1_000.0, 10.0), Rates(1.0, 1.0, 1.0), Rates(100.0, 1_000.0, 10.0)]
    assert kept({"empty": empty, "for later": [Rates(90.0, 900.0, 9.0)]}) == {"for later": (0.9, 0.9, 0.9)}
