"""A run of the chaos harness beside others, and after others of its seed."""

import json
from pathlib import Path

import pytest
from django.core.management.base import CommandError

from apps.local import account
from apps.local.chaos import proofs
from apps.local.chaos.attack import NeverOver
from apps.local.chaos.audit import Violation
from apps.local.chaos.report import verdict
from apps.local.chaos.stage import StageFailed, fresh_folder
from apps.local.management.commands import chaos
from apps.local.postgres import ServerError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(account, "ELSEWHERE", tmp_path / "elsewhere")
    monkeypatch.setattr(chaos, "VAR", tmp_path)
    monkeypatch.setattr(proofs, "VAR", tmp_path)
    return tmp_path / "chaos"


def test_an_earlier_run_of_a_seed_is_moved_aside_with_the_data_that_its_server_keeps_elsewhere(folder: Path) -> None:
    run = fresh_folder(folder / "7")
    (run / "report.md").touch()
    data = account.elsewhere(run / "postgres") / "data"
    data.mkdir(parents=True)
    assert list(fresh_folder(folder / "7").iterdir()) == []
    assert (folder / "7.old" / "report.md").exists()
    assert not data.exists()


def test_a_second_run_of_a_seed_that_is_under_way_is_refused(folder: Path) -> None:
    with chaos.own_folder("7") as first:
        with pytest.raises(CommandError, match="under way already") as refusal, chaos.own_folder("7"):
            pass
        assert first.is_dir()
    assert refusal.value.returncode == chaos.NO_VERDICT


def test_two_seeds_run_beside_each_other(folder: Path) -> None:
    with chaos.own_folder("7") as first, chaos.own_folder("8") as second:
        assert first != second


@pytest.mark.parametrize(
    ("code", "found", "is_proved"),
    [(1, ["letters"], True), (1, ["other"], False), (0, [], False), (1, None, False), (2, ["letters"], False)],
)
def test_a_safeguard_is_proved_by_a_run_that_failed_for_want_of_it(
    folder: Path, code: int, found: list[str] | None, is_proved: bool
) -> None:
    run = folder / f"{proofs.SEED}-without-letters"
    run.mkdir(parents=True)
    if found is not None:
        checks = {"letters": proofs.PROOFS["letters"].check, "other": "another promise"}
        (run / "violations.json").write_text(json.dumps([{"check": checks[name]} for name in found]))
    assert proofs.is_proved("letters", code) == is_proved


@pytest.mark.parametrize("error", [StageFailed("It is down"), NeverOver("It is down"), ServerError("It is down")])
def test_a_run_that_comes_to_no_verdict_ends_in_a_sentence_and_its_folder(folder: Path, error: Exception) -> None:
    with pytest.raises(CommandError, match=r"It is down. Logs and journal: .*/chaos/7") as end, chaos.own_folder("7"):
        raise error
    assert end.value.returncode == chaos.NO_VERDICT


def test_a_run_that_is_interrupted_ends_in_a_sentence_and_its_folder(folder: Path) -> None:
    with pytest.raises(CommandError, match=r"Stopped before the end. Logs .*/chaos/7"), chaos.own_folder("7"):
        raise KeyboardInterrupt


def test_a_text_that_no_fault_has_in_its_name_is_refused_with_the_names(folder: Path) -> None:
    with pytest.raises(CommandError, match=r"No fault has 'redis' in its name. There are:\n(.*\n)*  broker frozen\n"):
        chaos.Command().attack(jobs=1, seed=7, seconds=1, only=["broker", "redis"], without=None)
    assert not folder.exists()


def test_a_run_without_a_safeguard_says_whether_it_failed_as_it_must() -> None:
    noticed, other = Violation("claim", "job", "it ran twice"), Violation("other", "job", "it is late")
    assert verdict([], None) == "PASSED"
    assert verdict([other], None) == "FAILED with 1 violations"
    assert verdict([noticed, other], "claim") == "FAILED, as it must, with 2 violations"
    assert verdict([other], "claim").startswith("FAILED with 1 violations, and did not notice")
    assert verdict([], "claim").startswith("PASSED, and did not notice")
