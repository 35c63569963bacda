import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from apps.local import environment
from apps.local.exclusive import exclusively
from apps.local.management.commands import demo
from apps.local.places import kept_secret
from apps.local.procfile import Line
from apps.local.stack import FLOWER_PORT, Interrupted, Stack


class ClosedTerminal(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "LOCAL_ENV", tmp_path / "local.env")
    monkeypatch.setattr(demo, "VAR", tmp_path)
    return tmp_path


def test_a_second_demo_says_where_the_first_one_is(folder: Path) -> None:
    with exclusively(folder / "demo.lock") as leave_note:
        leave_note("is already running at http://127.0.0.1:8000/")
        with pytest.raises(CommandError, match=r"already running at http://127.0.0.1:8000/"):
            call_command("demo")


def test_only_its_owner_reads_the_demos_file_and_nobody_when_the_demo_is_over(folder: Path) -> None:
    environment.write({"DATABASE_URL": "postgres://somewhere", "SECRET_KEY": "secret", "DEBUG": "1"})
    assert (folder / "local.env").stat().st_mode & 0o077 == 0
    environment.forget()
    environment.forget()
    assert environment.read() == {}
    assert not (folder / "local.env").exists()


def test_what_a_killed_demo_left_in_its_file_is_not_taken_for_a_persons_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    environment.write({"DATABASE_URL": "postgres://gone", "REDIS_URL": "redis://gone"})
    monkeypatch.setenv("DATABASE_URL", "postgres://gone")
    monkeypatch.setenv("REDIS_URL", "redis://mine")
    given = environment.given()
    assert "DATABASE_URL" not in given
    assert given["REDIS_URL"] == "redis://mine"


def test_a_secret_stays_the_same_and_is_nobody_elses(folder: Path) -> None:
    assert kept_secret("word", folder) == kept_secret("word", folder) != kept_secret("another", folder)
    assert (folder / "word").stat().st_mode & 0o077 == 0


def test_the_demo_never_talks_to_the_real_stripe(folder: Path) -> None:
    stack = Stack(folder, {"STRIPE_API_BASE": "https://api.stripe.com", "STRIPE_API_KEY": "sk_live"}, print)
    settings = stack.settings(8000)
    assert settings["STRIPE_API_BASE"].startswith("http://127.0.0.1:")
    assert settings["STRIPE_API_KEY"].startswith("sk_test")


def test_a_shop_on_flowers_port_leaves_flower_another(folder: Path) -> None:
    settings = Stack(folder, {}, print).settings(FLOWER_PORT)
    ports = [settings[name] for name in settings if name.endswith("PORT")]
    assert len(ports) == len(set(ports)) == 5


def test_a_demo_whose_terminal_was_closed_stops_its_servers_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Stack] = []

    def start(*_: object, **__: object) -> None:
        environment.write({"DATABASE_URL": "postgres://somewhere"})
        raise Interrupted

    def stop(stack: Stack) -> None:
        stopped.append(stack)

    monkeypatch.setattr(Stack, "start", start)
    monkeypatch.setattr(Stack, "stop", stop)
    call_command("demo", stdout=ClosedTerminal())
    assert len(stopped) == 1
    assert environment.read() == {}


def test_what_a_killed_demo_left_in_its_file_is_forgotten_before_the_next_one_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one may have another broker, and name no Redis."""
    found: list[dict[str, str]] = []
    environment.write({"REDIS_URL": "redis://gone"})
    monkeypatch.setenv("REDIS_URL", "redis://gone")

    def start(stack: Stack, **_: object) -> None:
        found.extend((environment.read(), dict(stack.given)))
        raise Interrupted

    monkeypatch.setattr(Stack, "start", start)
    call_command("demo", broker="postgresql", stdout=io.StringIO())
    left, given = found
    assert left == {}
    assert "REDIS_URL" not in given


def test_what_is_started_without_a_redis_finds_none_in_a_demos_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tour on another broker, beside a demo."""

    def start(_: object) -> None:
        raise Interrupted

    stack = Stack(folder, {}, print, "postgresql")
    monkeypatch.setattr(stack.servers, "start", lambda: {"CELERY_BROKER_URL": "pgmq://"})
    monkeypatch.setattr(stack.supervisor, "listen_for_signals", lambda: None)
    monkeypatch.setattr(stack.supervisor, "start", start)
    with pytest.raises(Interrupted):
        stack.start()
    assert "REDIS_URL" not in stack.environment
    assert stack.environment["ENV_FILES"] == "0"


def test_a_procfiles_variables_are_filled_in_and_stay_one_argument() -> None:
    line = Line("web", "serve --port $PORT '$NAME'")
    assert line.arguments({"PORT": "8000", "NAME": "night shift"}) == ["serve", "--port", "8000", "night shift"]
