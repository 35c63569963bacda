"""What a person may write into the environment: nonsense is refused with one sentence that names the variable."""

import os
import secrets
import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured

from apps.local.places import ROOT
from config.env import env

# One that no sentence may repeat.
PASSWORD = "hunter2"

# What the tests are told for a laptop is not set there.
LAPTOP = ("DEBUG", "SANDBOX", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS")
SERVER = {**dict.fromkeys(LAPTOP), "SECRET_KEY": secrets.token_urlsafe(50)}


@pytest.mark.parametrize(("word", "read"), [("1", True), ("Yes", True), ("off", False), ("0", False), ("", True)])
def test_a_flag_is_one_or_zero_and_an_empty_one_is_not_set(
    word: str, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISH", word)
    assert env.flag("WISH", True) is read


def test_seconds_may_have_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WISH", "0.5")
    assert env.seconds("WISH", 30) == timedelta(seconds=0.5)


@pytest.mark.parametrize(
    ("reader", "word"),
    [
        ("flag", "ture"),
        ("flag", "2"),
        ("whole", "-3"),
        ("whole", "1.5"),
        ("whole", "ten"),
        ("seconds", "30s"),
        ("seconds", "-1"),
        ("seconds", "0"),
        ("seconds", "nan"),
        ("seconds", "1e9"),
        ("seconds", "999999999"),
        ("address", "shop.example.com"),
        ("address", "ftp://files.example.com"),
        ("address", "https://"),
        ("database", "nonsense"),
        ("database", "mysql://127.0.0.1/shop"),
        ("database", f"postgres://night:{PASSWORD}/tail@127.0.0.1/shop"),
        ("database", "postgres://127.0.0.1:port/shop"),
        ("mail_server", "nonsense"),
        ("mail_server", f"smtp://shop:{PASSWORD}@mail.example.com:port"),
    ],
)
def test_nonsense_is_refused_by_name_and_no_password_is_repeated(
    reader: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISH", word)
    with pytest.raises(ImproperlyConfigured, match=r"^WISH .*\.$") as refusal:
        getattr(env, reader)("WISH", "")
    assert PASSWORD not in str(refusal.value)


def test_what_a_database_url_asks_for_is_kept() -> None:
    code = "from config.settings import *; print(DATABASES['default']['OPTIONS']['sslmode'])"
    assert run("-c", code, DATABASE_URL="postgres://night@db/shop?sslmode=verify-full").stdout == "verify-full\n"


def test_a_command_says_in_one_sentence_which_setting_is_wrong() -> None:
    ended = run("manage.py", "relay", JOBS_LEASE_SECONDS="30s")
    assert ended.returncode == 1
    assert ended.stderr == (
        "Nightshift cannot start: JOBS_LEASE_SECONDS is '30s', and has to be a number of seconds above 0, like 2.5.\n"
    )


@pytest.mark.parametrize("name", ["CELERY_RESULT_BACKEND", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"])
def test_what_celery_would_believe_before_the_settings_is_refused(name: str) -> None:
    ended = run("manage.py", "diffsettings", **{name: f"redis://:{PASSWORD}@127.0.0.1/1"})
    assert ended.stderr.startswith(f"Nightshift cannot start: {name} is set")
    assert PASSWORD not in ended.stderr


def test_what_runs_on_a_laptop_by_itself_can_be_told_that_it_is_not_one() -> None:
    ended = run("manage.py", "help", DEBUG="0", SECRET_KEY="", SANDBOX=None)
    assert ended.stderr.startswith("Nightshift cannot start: SECRET_KEY is not set.")


def test_a_server_that_would_print_its_mail_is_found_out_by_a_check_and_starts_all_the_same() -> None:
    checked = run("manage.py", "check", "--deploy", **SERVER, EMAIL_URL=None)
    assert "(notifications.W001) Mails are printed" in checked.stderr
    assert "HINT: Set EMAIL_URL" in checked.stderr
    assert run("manage.py", "diffsettings", **SERVER, EMAIL_URL=None).returncode == 0


def test_a_server_with_a_mail_server_has_nothing_to_be_told() -> None:
    checked = run("manage.py", "check", "--deploy", **SERVER, EMAIL_URL="smtp+tls://shop:x@mail.example.com:587")
    assert "no issues" in checked.stdout, checked.stderr


def test_a_terminal_that_does_not_know_a_character_gets_another_one() -> None:
    script = "import manage, sys; sys.argv = ['manage.py', 'help']; manage.main(); print('waiting …')"
    ended = run("-c", script, PYTHONIOENCODING="latin-1")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "waiting ?")


def run(*command: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in {**os.environ, **settings}.items() if value is not None}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
