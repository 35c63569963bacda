"""What a terminal's variables, made for other programs, may not do to the demo and the tests."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import requests.utils

from apps.local.management.commands import chaos
from apps.local.places import ROOT

OF_THE_TESTS = {"DEBUG", "ENV_FILES", "REDIS_URL", "SANDBOX"}

# `manage.py`, up to the moment at which its command would begin.
PRINT_ENVIRONMENT = """
import json, os, django.core.management, manage
django.core.management.execute_from_command_line = lambda _: print(json.dumps(dict(os.environ)))
manage.main()
"""


def environment_of(folder: Path, /, *arguments: str, **variables: str) -> dict[str, str]:
    """What a command starts with that is typed into a terminal with these variables."""
    command = [sys.executable, "-c", PRINT_ENVIRONMENT, *arguments]
    terminal = {name: value for name, value in os.environ.items() if name not in OF_THE_TESTS} | variables
    ended = subprocess.run(command, cwd=folder, env=terminal, capture_output=True, text=True, check=True)
    environment: dict[str, str] = json.loads(ended.stdout)
    return environment


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """With a `.env` of its own: the real one belongs to whoever runs the tests."""
    shutil.copy(ROOT / "manage.py", tmp_path)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "apps").symlink_to(ROOT / "apps")
    (tmp_path / ".env").write_text("REDIS_URL=redis://in-use/0\n")
    return tmp_path


@pytest.mark.parametrize("others", [{"no_proxy": "", "NO_PROXY": "intranet"}, {"no_proxy": "*"}])
def test_no_proxy_is_asked_for_this_machine(
    checkout: Path, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(checkout, "demo", http_proxy="http://proxy.example:3128", **others).items():
        monkeypatch.setenv(name, value)
    assert urllib.request.proxy_bypass("127.0.0.1:8000")
    assert requests.utils.get_environ_proxies("http://127.0.0.1:8000/login/") == {}


def test_the_hosts_for_which_no_proxy_was_asked_before_stay_so(checkout: Path) -> None:
    environment = environment_of(checkout, "demo", no_proxy="a.example, b.example", NO_PROXY="b.example,c.example")
    assert environment["no_proxy"] == environment["NO_PROXY"] == "a.example,b.example,c.example,127.0.0.1,localhost"


def test_libpqs_own_variables_are_of_another_server(checkout: Path) -> None:
    environment = environment_of(
        checkout, "demo", PGSSLMODE="require", PGHOSTADDR="192.0.2.1", DATABASE_URL="postgres://mine/x"
    )
    assert [name for name in environment if name.startswith("PG")] == []
    assert environment["DATABASE_URL"] == "postgres://mine/x"


def test_what_holds_for_the_pages_of_a_server_does_not_for_those_of_a_laptop(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_server = {"ALLOWED_HOSTS": "shop.example.com", "SECURE_SSL_REDIRECT": "1", "SECURE_HSTS_SECONDS": "3600"}
    for name, value in environment_of(checkout, "demo", **on_a_server, BEHIND_PROXY="1").items():
        monkeypatch.setenv(name, value)
    code = "from config.settings import *; print(*ALLOWED_HOSTS, SECURE_SSL_REDIRECT, SECURE_HSTS_SECONDS)"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["localhost", "127.0.0.1", "[::1]", "False", "0"]


def test_what_another_project_has_told_its_celery_is_not_heard(checkout: Path) -> None:
    environment = environment_of(
        checkout, "demo", CELERY_RESULT_BACKEND="redis://other/1", CELERY_BROKER_READ_URL="amqp://other"
    )
    assert not {"CELERY_RESULT_BACKEND", "CELERY_BROKER_READ_URL"} & environment.keys()


def test_a_server_that_env_names_for_a_persons_work_is_not_emptied_by_the_tests(checkout: Path) -> None:
    assert environment_of(checkout, "demo")["REDIS_URL"] == "redis://in-use/0"
    for command in ("test", "brokers"):
        assert "REDIS_URL" not in environment_of(checkout, command)


def test_another_projects_settings_are_not_looked_for_here(checkout: Path) -> None:
    environment = environment_of(checkout, "demo", DJANGO_SETTINGS_MODULE="shop.settings")
    assert environment["DJANGO_SETTINGS_MODULE"] == "config.settings"


def test_a_run_of_chaos_keeps_the_settings_that_it_begins_again_with(checkout: Path) -> None:
    environment = environment_of(checkout, "chaos", DJANGO_SETTINGS_MODULE=chaos.SETTINGS)
    assert environment["DJANGO_SETTINGS_MODULE"] == chaos.SETTINGS


def test_a_python_that_does_not_look_beside_its_script_finds_everything() -> None:
    terminal = {**os.environ, "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, ROOT / "manage.py", "help"], env=terminal, stdout=subprocess.DEVNULL, check=True)


def test_only_a_check_without_arguments_is_about_a_laptop(checkout: Path) -> None:
    assert environment_of(checkout, "check")["DEBUG"] == "1"
    assert "DEBUG" not in environment_of(checkout, "check", "--deploy")
