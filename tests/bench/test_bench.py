"""The bench itself: that it runs from end to end, and that it judges figures rightly."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.conf import settings

from bench.console import Page
from bench.report import target
from bench.rounds import Measure, alternate


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """What it printed, and what it wrote."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    return run("--quick", "--peers", "without", "--json", str(file)), json.loads(file.read_text())


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


def test_a_quick_run_measures_everything_on_servers_of_its_own(quick_run: tuple[str, dict[str, object]]) -> None:
    printed, _ = quick_run
    for measured in ("enqueue one", "at once", "drain", "while the relay publishes", "limit", "commit → start, p99"):
        assert measured in printed
    assert "fsync on, synchronous_commit on" in printed


def test_the_file_holds_every_round_and_the_machine(quick_run: tuple[str, dict[str, object]]) -> None:
    _, written = quick_run
    assert set(written) == {"machine", "measures", "pages"}


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
    assert "drain" not in printed


def test_a_page_is_met_below_its_limit() -> None:
    assert Page("jobs", [150.0, 199.0, 900.0]).is_met
    assert not Page("jobs", [200.0]).is_met
    assert not Page("health, ready", [20.0]).is_met


def test_sides_take_turns_after_a_small_round_that_is_not_counted() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str, figure: float) -> Callable[[int], float]:
        def take(jobs: int) -> float:
            calls.append((name, jobs))
            return figure

        return take

    assert alternate(2, (side("plain", 1.0), 500), (side("ours", 2.0), 1000)) == [[1.0, 1.0], [2.0, 2.0]]
    assert calls == [("plain", 40), ("ours", 40)] + [("plain", 500), ("ours", 1000)] * 2


@pytest.mark.parametrize(
    ("measure", "verdict"),
    [
        (Measure("rate", "jobs/s", [100.0], [120.0], ratio_target=1.2), "≥ 1.2 ×  met"),
        (Measure("rate", "jobs/s", [100.0], [119.0], ratio_target=1.2), "≥ 1.2 ×  MISSED"),
        (Measure("time", "ms", [1.0], [15.0], limit=15.0), "≤ 15 ms  met"),
        (Measure("time", "ms", [1.0], [15.1], limit=15.0), "≤ 15 ms  MISSED"),
        (Measure("time", "ms", [1.0], [99.0]), "–"),
    ],
)
def test_a_target_is_met_or_missed(measure: Measure, verdict: str) -> None:
    assert target(measure) == verdict


def test_one_slow_round_does_not_move_the_ratio() -> None:
    assert Measure("rate", "jobs/s", [100.0, 1.0, 100.0], [150.0, 150.0, 2.0]).ratio == 1.5
