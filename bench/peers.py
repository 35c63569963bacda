"""The systems that people leave Celery for, in an environment of their own.

It is made under `var/` the first time.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.db import connection

from apps.local.places import ROOT, VAR
from bench import written
from bench.sides import KEEPS, MAY_LOSE, POOL_SIZE, REDELIVERS, Side, Wish

ENVIRONMENT = VAR / "bench" / "peers"
REQUIREMENTS = (
    "celery[redis]==5.7.0",
    "dramatiq[redis]==2.2.1",
    "rq==3.0.0",
    "huey==3.5.4",
    "taskiq==0.13.0",
    "taskiq-redis==1.2.4",
    "procrastinate==3.10.0",
    "pgqueuer[psycopg]==1.6.0",
    "django-tasks-db[compat]==0.13.0",
    "psycopg[binary,pool]==3.3.9",
)
NO_DJANGO = {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""}


def make_environment() -> None:
    made_for = ENVIRONMENT / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if made_for.is_file() and made_for.read_text() == wanted:
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
    # Of the lock file, so it is where we are; and told to trust whom this machine trusts.
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(ENVIRONMENT)]
    subprocess.run([*install, *REQUIREMENTS], check=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
    made_for.write_text(wanted)


def make_database() -> None:
    """Beside Nightshift's, made once. Plain Celery's jobs write there too."""
    address = urlsplit(os.environ["DATABASE_URL"])
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE peers")
    os.environ["BENCH_PEER_DATABASE"] = urlunsplit(address._replace(scheme="postgresql", path="/peers"))
    with psycopg.connect(os.environ["BENCH_PEER_DATABASE"], autocommit=True) as session:
        session.execute(written.TABLE)


def peers() -> list[Side]:
    """Installed, and with what they need in their database."""
    make_environment()
    procrastinate = [command("procrastinate"), "-a", "bench.peer.with_procrastinate.app", "--log-level", "warning"]
    run([*procrastinate, "schema", "--apply"])
    run(python("from bench.peer.with_django_tasks import install; install()"))
    run([command("pgq"), "--pg-dsn", os.environ["BENCH_PEER_DATABASE"], "install"])
    quiet = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    tuned = [command("celery"), "-A", "bench.peer.with_celery", "worker", "-c", POOL_SIZE, *quiet]
    rq = [command("rq"), "worker", "--quiet", "--url", os.environ["BENCH_PEER_URL"]]
    huey = ["bench.peer.with_huey.huey", "-q", "-w2", "-kprocess"]
    taskiq = ["--workers", POOL_SIZE, "--log-level", "WARNING"]
    return [
        peer("tuned Celery", "celery", MAY_LOSE, tuned),
        peer("dramatiq", "dramatiq", MAY_LOSE, [command("dramatiq"), "bench.peer.with_dramatiq", "-p2"]),
        peer("rq", "rq", MAY_LOSE, *[rq] * 2, share=0.1),
        peer("huey", "huey", MAY_LOSE, [command("huey_consumer"), *huey]),
        peer("taskiq", "taskiq", REDELIVERS, [command("taskiq"), "worker", "bench.peer.with_taskiq:broker", *taskiq]),
        peer("procrastinate", "procrastinate", KEEPS, *[[*procrastinate, "worker", "--concurrency=1"]] * 2, share=0.25),
        peer("django-tasks-db", "django_tasks", KEEPS, *[worker("django_tasks")] * 2, share=0.15),
        peer("pgqueuer", "pgqueuer", KEEPS, *[worker("pgqueuer")] * 2, share=2.0),
    ]


def peer(name: str, module: str, promise: str, *workers: list[str], share: float = 1.0) -> Side:
    def fill(wishes: Sequence[Wish]) -> None:
        ask(module, "fill", *[f"{task}:{jobs}" for task, jobs in wishes])

    def rates(one: int, many: int) -> tuple[float, float]:
        singly, together = json.loads(ask(module, "rates", str(one), str(many)))
        return singly, together

    def starts(jobs: int) -> list[float]:
        found: list[float] = json.loads(ask(module, "starts", str(jobs)))
        return found

    return Side(name, promise, fill, rates, workers, NO_DJANGO, share, starts)


def ask(module: str, *arguments: str) -> str:
    return run([command("python"), "-m", "bench.peer", f"with_{module}", *arguments])


def worker(module: str) -> list[str]:
    return python(f"from bench.peer.with_{module} import work; work()")


def python(line: str) -> list[str]:
    return [command("python"), "-c", line]


def command(name: str) -> str:
    return str(ENVIRONMENT / "bin" / name)


def run(line: Sequence[str]) -> str:
    """What it printed."""
    environment = {**os.environ, **NO_DJANGO}
    return subprocess.run(line, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
