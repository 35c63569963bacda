"""The commands of docs/operations.md can be typed as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from celery import current_app
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from django.core.management import CommandError, get_commands, load_command_class

from apps.local.places import ROOT
from config.queues import QUEUES
from tests.nobody import NOBODY

PAGE = (ROOT / "docs" / "operations.md").read_text()
PROGRAM = re.compile(r"(?:python manage\.py|celery -A config|docker compose) [^`\n;]*")
COMMANDS = sorted(
    {
        command.strip()
        for place in re.findall(r"^```\w*\n(.*?)^```$|`([^`\n]+)`", PAGE, re.DOTALL | re.MULTILINE)
        for command in PROGRAM.findall("".join(place))
    }
)


def words_of(command: str) -> list[str]:
    """With what stands for something in the page filled in."""
    return [{"ID": str(uuid4()), "$queue": "low"}.get(word, word) for word in shlex.split(command)]


def test_the_page_has_commands_of_every_kind() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"python", "celery", "docker"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python")])
def test_a_command_of_manage_py_takes_these_arguments(command: str) -> None:
    _, _, name, *arguments = words_of(command)
    try:
        load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(arguments)
    except CommandError as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("celery")])
def test_a_command_of_celery_takes_these_arguments(command: str) -> None:
    _, _, _, name, *arguments = words_of(command)
    if name == "flower":  # Flower reads its options by itself
        from tornado.options import options

        known = {name.replace("_", "-") for name in options._options}
        asked = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in arguments}
        assert asked <= known
    else:
        celery.commands[name].make_context(name, arguments, obj=CLIContext(current_app, no_color=True, workdir=None))


def test_a_command_to_the_workers_reaches_as_far_as_the_broker() -> None:
    """In a process in which nobody has set Django up."""
    command = [sys.executable, "-m", "celery", "-A", "config", "control", "cancel_consumer", "low"]
    nowhere = {**os.environ, "CELERY_BROKER_URL": f"redis://{NOBODY}/0"}
    answer = subprocess.run(command, cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False)
    assert "Could not connect to the message broker" in answer.stdout + answer.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("docker")])
def test_a_profile_of_compose_exists(command: str) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    profiles = {profile for service in services for profile in service.get("profiles", [])}
    assert re.findall(r"--profile (\w+)", command)[0] in profiles


def test_the_queues_of_the_page_are_those_of_the_settings() -> None:
    for names in re.findall(r"for queue in ([\w ]+);", PAGE):
        assert set(names.split()) == set(QUEUES)


def test_every_alert_is_in_the_table() -> None:
    rules = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in PAGE] == []


def test_what_the_page_quotes_of_a_log_is_said_somewhere() -> None:
    code = "".join(path.read_text() for path in Path(ROOT / "apps" / "jobs").rglob("*.py"))
    for words in ("The broker is away, jobs wait in the ledger", "This beat leads", "Leases were not renewed"):
        assert words in PAGE
        assert words in code
    assert "The broker was wiped, or one of the servers was restarted" in code
