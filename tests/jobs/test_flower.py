"""Flower as the Procfile starts it: behind a sign-in, on this machine alone, with its metrics."""

import os
import re
import shlex
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import Client

from apps.local import procfile
from apps.local.children import spawn
from apps.local.places import ROOT
from apps.local.ports import any_port
from apps.local.waiting import wait_for

SIGN_IN = "operator:a-password-for-tests"
[COMMAND] = [line.command for line in procfile.read(ROOT / "Procfile") if line.name == "flower"]


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("flower"), any_port()
    filled_in = {"$FLOWER_PORT": str(port), "$FLOWER_DB": str(folder / "state")}
    command = re.sub(r"\$FLOWER_\w+", lambda name: filled_in[name[0]], COMMAND)
    environment = {**os.environ, "FLOWER_BASIC_AUTH": SIGN_IN}
    log = folder / "log"
    process = spawn([sys.executable, "-m", *shlex.split(command)], log=log, cwd=ROOT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        assert wait_for(lambda: status(f"{address}/healthcheck") == 200, 60, every=0.2), log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(30)


def status(address: str, sign_in: str = "") -> int:
    headers = {"Authorization": f"Basic {b64encode(sign_in.encode()).decode()}"} if sign_in else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_stranger_sees_no_worker_and_starts_no_task(flower: str) -> None:
    assert status(f"{flower}/workers") == 401
    assert status(f"{flower}/api/tasks") == 401
    assert status(f"{flower}/workers", "operator:a-guess") == 401


def test_who_signs_in_sees_the_workers_and_prometheus_its_metrics(flower: str) -> None:
    assert status(f"{flower}/workers", SIGN_IN) == 200
    assert status(f"{flower}/metrics") == 200


def test_under_compose_the_admin_links_to_where_it_is() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    [ports] = services["flower"]["ports"]
    assert f"http://{ports.rpartition(':')[0]}" in services["web"]["environment"]["FLOWER_URL"]


def test_it_listens_to_this_machine_alone_and_remembers() -> None:
    assert "--address=127.0.0.1" in COMMAND
    assert "--persistent=True" in COMMAND
    assert Path(ROOT, "compose.yaml").read_text().count('"127.0.0.1:5555:5555"') == 1


@pytest.mark.django_db
def test_the_workers_in_the_admin_lead_to_it(admin_client: Client, settings: Any) -> None:
    settings.FLOWER_URL = "http://127.0.0.1:5555"
    page = admin_client.get("/admin/jobs/worker/")
    assert '<a href="http://127.0.0.1:5555">Flower</a>' in page.content.decode()
