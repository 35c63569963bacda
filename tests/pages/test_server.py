"""The web server of the Procfile, as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from apps.local.places import ROOT
from apps.local.ports import any_port
from apps.local.procfile import read
from apps.local.waiting import wait_for
from tests.pages.conftest import ALLOW_ASYNC

PATIENCE = 60


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@pytest.fixture
def server(tmp_path: Path, servers: dict[str, str], transactional_db: None) -> Iterator[Server]:
    """It reads what this test writes."""
    port = str(any_port())
    line = next(line for line in read(ROOT / "Procfile") if line.name == "web")
    database = servers["DATABASE_URL"].rpartition("/")[0] + f"/{connection.settings_dict['NAME']}"
    environment = {**os.environ, **servers, "DATABASE_URL": database, "DATABASE_POOL": "10", "PORT": port}
    environment.pop(ALLOW_ASYNC, None)
    log = tmp_path / "web.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", *line.arguments(environment)]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_for(lambda: answers(url), PATIENCE, every=0.2), log.read_text()
        yield Server(url, process, log)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/login/", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_a_stream_does_not_keep_the_server_from_stopping(server: Server, ada: User) -> None:
    browser = Client()
    browser.force_login(ada)
    cookies = {name: morsel.value for name, morsel in browser.cookies.items()}
    with requests.get(f"{server.url}/jobs/events/", cookies=cookies, stream=True, timeout=PATIENCE) as stream:
        lines = stream.iter_lines()
        assert next(lines) == b"retry: 2000"
        server.process.send_signal(signal.SIGINT)
        assert b"event: again" in list(lines)
    server.process.wait(PATIENCE)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "graceful shutdown exceeded" not in log
