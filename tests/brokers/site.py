"""An installation whose broker is any of them: the same relay, the same workers, another `CELERY_BROKER_URL`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import environ
from celery import current_app
from django.db import connection
from kombu import Producer

from apps.jobs.models import Job
from apps.local.places import ROOT
from apps.local.postgres import PostgresServer
from config.queues import task_queues
from tests.acceptance.site import KEPT_IN_MEMORY, SHORT_WAITS, Site
from tests.brokers.kinds import FIFO, SQS, PostgreSQL, RabbitMQ, Redis, broker, connect
from tests.brokers.redis_kinds import RedisSentinel, RedisTLS

KINDS: dict[str, type[Redis | RabbitMQ | PostgreSQL | SQS | RedisSentinel]] = {
    "redis": Redis,
    "rabbitmq": RabbitMQ,
    "sqs": SQS,
    "sqs-fifo": FIFO,
    "postgresql": PostgreSQL,
    "redis-tls": RedisTLS,
    "redis-sentinel": RedisSentinel,
}
POOLS = {"redis-threads": "threads", "redis-gevent": "gevent", "redis-solo": "solo"}

# Longer than any broker-only job here runs, so that none is handed out twice for that.
VISIBILITY = {"BROKER_VISIBILITY_SECONDS": "4"}


class BrokerSite(Site):
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.postgres = PostgresServer(folder / "postgres", password="postgres", settings=KEPT_IN_MEMORY)
        self.kind = KINDS["redis" if name in POOLS else name](folder, self.postgres)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.broken: dict[str, str] = {}

    def open(self) -> None:
        self.postgres.start()
        self.kind.start()
        connection.close()
        connection.settings_dict.update(environ.Env.db_url_config(self.postgres.url()))
        # By a process that knows which broker it is for: a receiver makes the queues' tables.
        self.command("migrate", "--verbosity=0")
        self.start_relay()
        self.start_worker()

    def close(self) -> None:
        for name in list(self.running):
            self.kill9(name)
        connection.close()
        self.kind.stop()
        self.postgres.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_whole(self) -> None:
        if not self.kind.is_running:
            self.kind.start()
        for name in [name for name in self.running if name not in ("relay", "worker")]:
            self.kill9(name)
        if not self.is_running("relay"):
            self.start_relay()
        if not self.is_running("worker"):
            self.start_worker()

    def start_worker(
        self, name: str = "worker", *options: str, concurrency: int = 2, include: bool = True, **waits: str
    ) -> None:
        pool = f"--pool={POOLS.get(self.name, 'prefork')}"
        super().start_worker(name, pool, *options, concurrency=concurrency, include=include, **waits)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url(),
            **SHORT_WAITS,
            **VISIBILITY,
            **self.kind.environment,
            **self.broken,
        }

    def sabotage(self, capability: str) -> None:
        """Break it, in a relay and a worker that start anew."""
        self.broken = {"DJANGO_SETTINGS_MODULE": "tests.brokers.sabotaged", "SABOTAGE": capability}
        for name in list(self.running):
            self.kill9(name)
        self.make_whole()

    def repair(self) -> None:
        """What the broken relay and worker have left lying about is thrown away."""
        self.broken = {}
        for name in list(self.running):
            self.kill9(name)
        Job.objects.filter(state__in=Job.LIVE).delete()
        if not self.kind.is_running:
            self.kind.start()

    @property
    def full_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def command(self, *arguments: str) -> None:
        """One command of `manage.py`, to its end."""
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.full_environment, check=True)

    def celery(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "celery", "-A", "config", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.full_environment, capture_output=True, text=True, check=False, timeout=60
        )

    def start_flower(self, port: int) -> None:
        command = ["-m", "celery", "-A", "config", "flower", "--address=127.0.0.1", f"--port={port}"]
        self._start("flower", command, {"FLOWER_UNAUTHENTICATED_API": "true"})

    def send(self, task: str, kwargs: dict[str, Any], *, job_id: Any = None, **headers: Any) -> str:
        """A message made here, past the ledger: of a broker-only job, or a second one of a job that is recorded."""
        task_id = str(job_id or uuid4())
        message = current_app.amqp.as_task_v2(task_id, task, (), kwargs)
        with connect(self.kind) as broker_connection:
            [queue] = [queue for queue in task_queues(broker(self.kind).queue_arguments) if queue.name == "default"]
            Producer(broker_connection).publish(
                message.body,
                exchange=queue.exchange,
                routing_key=queue.routing_key,
                declare=[queue],
                serializer="json",
                headers={**message.headers, **headers},
                **message.properties,
            )
        return task_id

    def is_idle(self) -> bool:
        """No job lives, and no message waits."""
        return not Job.objects.filter(state__in=Job.LIVE).exists() and not self.kind.size()


@contextmanager
def own_site(name: str, folder: Path) -> Iterator[BrokerSite]:
    before = dict(connection.settings_dict)
    site = BrokerSite(name, folder)
    try:
        site.open()
        yield site
    finally:
        site.close()
        connection.settings_dict.update(before)
