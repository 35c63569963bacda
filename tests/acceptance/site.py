"""A whole installation of its own: PostgreSQL, Valkey, a relay and workers, all of which a test may kill.

Everything that waits in production waits for seconds here: a lease is four, a grace one.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import environ
import psutil
from celery import current_app
from django.core.management import call_command
from django.db import OperationalError, connection
from kombu import Connection

from apps.jobs.models import Job, Worker
from apps.local.children import family_of, spawn
from apps.local.places import ROOT
from apps.local.postgres import PostgresServer
from apps.local.valkey import ValkeyServer
from apps.local.waiting import wait_for

# The machine may be doing many other things; a test goes on as soon as its condition holds.
PATIENCE = 60.0
# A crash of the server must not lose what it has committed; a crash of the machine may.
KEPT_IN_MEMORY = MappingProxyType({"fsync": "off", "full_page_writes": "off"})
SHORT_WAITS = {
    "JOBS_LEASE_SECONDS": "4",
    "JOBS_RESCUE_SECONDS": "0.5",
    "JOBS_SHUTDOWN_GRACE_SECONDS": "1",
    "JOBS_UNKNOWN_TASK_GRACE_SECONDS": "3",
    "JOBS_UNKNOWN_TASK_SECONDS": "0.5",
}


def eventually(condition: Callable[[], Any], timeout: float = PATIENCE, describe: Callable[[], Any] = str) -> Any:
    """Wait until the condition is true, and return what it returned. While the database is away it is not true."""
    answers: list[Any] = [None]

    def holds() -> bool:
        try:
            answers[0] = condition()
        except OperationalError:
            connection.close()
            return False
        return bool(answers[0])

    assert wait_for(holds, timeout, every=0.05), f"not within {timeout:.0f} s; last seen: {answers[0]!r} {describe()}"
    return answers[0]


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = PostgresServer(folder / "postgres", password="postgres", settings=KEPT_IN_MEMORY)
        self.valkey = ValkeyServer(folder / "valkey", password="valkey")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def open(self) -> None:
        self.postgres.start()
        self.valkey.start()
        point_django_at(self.postgres.url())
        call_command("migrate", verbosity=0)
        self.start_relay()
        self.start_worker()

    def close(self) -> None:
        for name in list(self.running):
            self.kill9(name)
        connection.close()
        self.postgres.remove()
        self.valkey.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_whole(self) -> None:
        """Before a test: what the one before has broken works again."""
        self.make_ready()
        if not self.is_running("worker"):
            self.start_worker()

    def make_ready(self) -> None:
        """For a worker of the test's own."""
        for server in (self.postgres, self.valkey):
            if not server.is_running:
                server.start()
        for name in [name for name in self.running if name not in ("relay", "worker")]:
            self.kill9(name)
        if not Job.objects.filter(state__in=Job.LIVE).exists():
            with self.valkey.client() as client:
                # What a worker that is gone had not acknowledged would come back in two minutes, to be dropped.
                client.delete("unacked", "unacked_index")
        if not self.is_running("relay"):
            self.start_relay()

    # --- Processes ----------------------------------------------------------------------------------------------------

    def start_relay(self, name: str = "relay", **environment: str) -> None:
        self._start(name, ["manage.py", "relay"], environment)

    def start_worker(
        self, name: str = "worker", *options: str, concurrency: int = 9, include: bool = True, **waits: str
    ) -> None:
        """Return when it is consuming."""
        command = ["-m", "celery", "-A", "config", "worker", "-n", f"{name}@site", f"--concurrency={concurrency}"]
        included = ["--include=tests.acceptance.misbehaviour"] if include else []
        quick = ["--loglevel=INFO", "--without-gossip", "--without-mingle"]
        self._start(name, [*command, *quick, *included, *options], waits)
        eventually(lambda: b"ready." in self.log(name).read_bytes(), describe=lambda: self.last_words(name))

    def _start(self, name: str, command: list[str], waits: Mapping[str, str] = MappingProxyType({})) -> None:
        self.log(name).unlink(missing_ok=True)
        environment = {**os.environ, **self.environment, **waits}
        self.running[name] = spawn([sys.executable, *command], log=self.log(name), cwd=ROOT, env=environment)

    @property
    def environment(self) -> dict[str, str]:
        addresses = {"REDIS_URL": self.valkey.url(), "CELERY_BROKER_URL": self.valkey.url()}
        return {"DATABASE_URL": self.postgres.url(), **addresses, **SHORT_WAITS}

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def last_words(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")[-2_000:]

    def is_running(self, name: str) -> bool:
        return name in self.running and self.running[name].poll() is None

    def pid(self, name: str) -> int:
        return self.running[name].pid

    def children(self, name: str) -> list[psutil.Process]:
        return family_of(self.pid(name))[1:]

    def kill9(self, name: str) -> None:
        """The process and all below it, as a host that dies takes them along."""
        process = self.running.pop(name)
        for member in family_of(process.pid):
            member.kill()
        process.wait()

    def terminate(self, name: str, timeout: float = PATIENCE) -> int:
        """SIGTERM, as a deploy sends it; returns the exit status."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout)

    def worker_row(self, name: str = "worker") -> Worker:
        return Worker.objects.get(pid=self.pid(name))

    # --- Messages -----------------------------------------------------------------------------------------------------

    def publish(self, task: Any, **options: Any) -> Any:
        """A broker-only job."""
        with Connection(self.valkey.url()) as broker:
            return task.apply_async(connection=broker, **options)

    def push(self, item: bytes, queue: str = "default") -> None:
        """Bytes, as they are, to the end of the queue that is served next."""
        with self.valkey.client() as client:
            client.lpush(queue, item)

    def is_idle(self) -> bool:
        """No job lives, and the broker holds nothing."""
        with self.valkey.client() as client:
            waiting = sum(int(client.llen(name)) for name in current_app.amqp.queues)
            return not waiting and not client.hlen("unacked") and not Job.objects.filter(state__in=Job.LIVE).exists()


def point_django_at(url: str) -> None:
    connection.close()
    connection.settings_dict.update(environ.Env.db_url_config(url))


@contextmanager
def own_site(folder: Path) -> Iterator[Site]:
    before = dict(connection.settings_dict)
    site = Site(folder)
    try:
        site.open()
        yield site
    finally:
        site.close()
        connection.settings_dict.update(before)
