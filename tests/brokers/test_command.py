"""`manage.py brokers`: which of them it asks, what it prints, and how it exits."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.local import rabbitmq
from apps.local.broker_table import ALL_PASSED, Outcomes, markdown
from apps.local.management.commands import brokers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which were asked, in their order, as far as there is one. Everything passes."""
    names: list[str] = []

    def run_one(self: brokers.Command, name: str, folder: Path) -> Outcomes:
        names.append(name)
        return {pair: outcome for pair, outcome in ALL_PASSED.items() if pair[1] == name}

    monkeypatch.setattr(brokers.Command, "run_one", run_one)
    return names


def has_rabbitmq(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(rabbitmq, "is_installed", lambda: installed)


def test_everything_is_asked_and_the_whole_table_printed(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    has_rabbitmq(monkeypatch, True)
    call_command("brokers")
    assert set(asked) == set(brokers.EVERYTHING)
    assert markdown(ALL_PASSED) in capsys.readouterr().out


def test_without_rabbitmq_the_others_are_asked_and_a_sentence_says_so(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    has_rabbitmq(monkeypatch, False)
    call_command("brokers")
    assert set(asked) == set(brokers.EVERYTHING) - {"rabbitmq"}
    out = capsys.readouterr().out
    assert rabbitmq.MISSING in out
    assert "not run" in out


def test_rabbitmq_by_name_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    has_rabbitmq(monkeypatch, False)
    with pytest.raises(CommandError, match="apt-get install"):
        call_command("brokers", "redis", "rabbitmq")


def test_a_broker_that_nobody_knows_is_refused() -> None:
    with pytest.raises(CommandError, match="no kafka here, only sabotage, redis"):
        call_command("brokers", "kafka")


def test_one_that_fails_makes_the_command_fail(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(brokers.Command, "run_one", lambda *_: {("drain", "redis"): "failed"})
    with pytest.raises(SystemExit, match="1"):
        call_command("brokers", "redis")
    assert "**FAILED**" in capsys.readouterr().out
