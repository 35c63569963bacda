"""The processes that run jobs: a worker of each side, with a pool of two, and Nightshift's relay."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from apps.local.children import family_of, kill_tree, spawn
from apps.local.places import ROOT
from apps.local.waiting import wait_for
from bench import plain
from config.celery import app as nightshift_app

POOL_SIZE = "2"
# Python imports for seconds where others use the machine too.
PATIENCE = 60.0


class NotUp(Exception):
    """A worker did not come up, or does not listen."""


@dataclass(frozen=True)
class Worker:
    """A worker that idles at a queue to which nobody publishes, until `consuming` has it take jobs from `queue`."""

    app: Any
    node: str
    queue: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def consuming(self) -> Iterator[None]:
        self._obeyed(self.app.control.add_consumer(self.queue, **self._answer))
        try:
            yield
        finally:
            self._obeyed(self.app.control.cancel_consumer(self.queue, **self._answer))

    def is_up(self) -> bool:
        return bool(self.app.control.ping([self.node], timeout=1.0))

    def cpu_seconds(self) -> float:
        """Of the main process and its pool, so far; with the children that it has replaced meanwhile."""
        return sum(sum(member.cpu_times()[:4]) for member in family_of(self.process.pid))

    @property
    def _answer(self) -> dict[str, Any]:
        return {"destination": [self.node], "reply": True, "timeout": PATIENCE}

    def _obeyed(self, answers: Any) -> None:
        if not answers:
            raise NotUp(f"The worker {self.node} does not answer.")


@dataclass(frozen=True)
class Fleet:
    plain: Worker
    nightshift: Worker


@contextmanager
def fleet(logs: Path) -> Iterator[Fleet]:
    """Everything is up when this yields, and waits."""
    django = dict(os.environ)
    no_django = {name: value for name, value in django.items() if name != "DJANGO_SETTINGS_MODULE"}
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        processes.append(spawn(command, log=logs / f"{name}.log", cwd=ROOT, env=environment))
        return processes[-1]

    try:
        start("relay", [sys.executable, "manage.py", "relay"], django)
        nightshift = start("nightshift", worker("nightshift", "config", "--include", "bench.tasks"), django)
        bare = start("plain", worker("plain", "bench.plain"), no_django)
        workers = Fleet(
            plain=Worker(plain.app, "plain@bench", "celery", bare),
            nightshift=Worker(nightshift_app, "nightshift@bench", "default", nightshift),
        )
        if not wait_for(lambda: workers.plain.is_up() and workers.nightshift.is_up(), PATIENCE):
            raise NotUp(f"The workers are not up after {PATIENCE:.0f} s (see {logs}).")
        yield workers
    finally:
        stop(processes)


def worker(name: str, app: str, *options: str) -> list[str]:
    celery = str(shutil.which("celery", path=str(Path(sys.executable).parent)))
    idle = ["--hostname", f"{name}@bench", "--concurrency", POOL_SIZE, "--queues", "low"]
    return [celery, "-A", app, "worker", *idle, *options]


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    going = [process for process in processes if process.poll() is None]
    for process in going:
        process.terminate()
    for process in going:
        kill_tree(psutil.Process(process.pid), signal.SIGTERM)
        process.wait()
