"""Nightshift's drain rate next to the systems that people leave Celery for, each with its own worker of two processes.

All are measured in the same way: a job that tells the time, many that do nothing, and a job that tells the time again
wait in the queue when the worker starts. The rate is that of the jobs between the two. The peers live in an
environment of their own under `var/`, which is made the first time and takes a minute.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit, urlunsplit

import redis
from django.db import connection

from apps.local.places import ROOT, VAR
from bench import plain, stamps, tasks
from bench.chart import Bar, svg
from bench.fleet import POOL_SIZE, stop
from config.celery import app as nightshift_app

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
BASE = "plain Celery"
KEEPS = "at least once; the job and its caller's rows commit together"
REDELIVERS = "at least once, if Redis keeps its memory"
MAY_LOSE = "may lose jobs"


@dataclass(frozen=True)
class Side:
    """`enqueue` takes a number of jobs; `workers` are the commands that run them."""

    name: str
    promise: str
    enqueue: Callable[[int], None]
    workers: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    jobs: int = 4_000


@dataclass(frozen=True)
class Rate:
    side: Side
    figures: list[float]

    @property
    def median(self) -> float:
        return median(self.figures)


def measure(rounds: int, share: float, logs: Path) -> list[Rate]:
    """`share` of each side's jobs, in so many rounds that take turns."""
    make_environment()
    sides = [*own_sides(), *peers()]
    for side in sides:
        side.prepare()
    figures: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            with suppress(stamps.NeverStarted):  # a release of theirs that does not work here must not cost the table
                figures[side.name].append(rate_of(side, int(side.jobs * share), logs))
    return [Rate(side, figures[side.name]) for side in sides if figures[side.name]]


def table(rates: Sequence[Rate]) -> str:
    """Fastest first; the ratio is to plain Celery in the same run."""
    base = next(rate.median for rate in rates if rate.side.name == BASE)
    ordered = sorted(rates, key=lambda rate: -rate.median)
    lines = ["| drained by two processes | ratio | jobs/s | promise |", "|---|---|---|---|"]
    lines += [
        f"| {rate.side.name} | {rate.median / base:.2f} | {rate.median:,.0f} | {rate.side.promise} |"
        for rate in ordered
    ]
    return "\n".join(lines)


def chart(rates: Sequence[Rate]) -> str:
    base = next(rate.median for rate in rates if rate.side.name == BASE)
    bars = [
        Bar(rate.side.name, rate.median, f"{rate.median / base:.1f} × ({rate.median:,.0f} a second)", kind(rate.side))
        for rate in sorted(rates, key=lambda rate: -rate.median)
    ]
    return svg("Jobs that do nothing, drained by two processes (yellow may lose jobs)", bars)


def kind(side: Side) -> str:
    if side.name.startswith("Nightshift"):
        return "ours"
    return "loses" if side.promise == MAY_LOSE else "theirs"


def make_environment() -> None:
    made_for = ENVIRONMENT / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if made_for.is_file() and made_for.read_text() == wanted:
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    subprocess.run([str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    made_for.write_text(wanted)


def rate_of(side: Side, jobs: int, logs: Path) -> float:
    forget_everything()
    side.enqueue(jobs)
    with working(side, logs):
        began = stamps.wait_for_stamp()
        ended = stamps.wait_for_stamp()
    return jobs / (ended - began)


@contextmanager
def working(side: Side, logs: Path) -> Iterator[None]:
    """Their output goes to a file: a pipe that nobody reads would fill up."""
    path = logs / f"{side.name.replace(' ', '-').replace(',', '')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        processes = [
            subprocess.Popen(command, cwd=ROOT, env={**os.environ, **side.environment}, stdout=log, stderr=log)
            for command in side.workers
        ]
        try:
            yield
        finally:
            stop(processes)


def forget_everything() -> None:
    for name in ("BENCH_PEER_URL", "BENCH_STAMPS_URL", "BENCH_PLAIN_URL", "REDIS_URL"):
        with redis.Redis.from_url(os.environ[name]) as client:
            client.flushdb()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE jobs_job")


# --- Our own sides ----------------------------------------------------------------------------------------------------


def own_sides() -> list[Side]:
    prefork = [celery("config", "bench.tasks", "--concurrency", POOL_SIZE)]
    solos = [celery("config", "bench.tasks", "--pool", "solo", "--hostname", f"solo{n}@bench") for n in (1, 2)]
    bare = {"DJANGO_SETTINGS_MODULE": ""}
    return [
        Side(BASE, MAY_LOSE, enqueue_plain, [celery("bench.plain", "", "--concurrency", POOL_SIZE)], bare),
        Side("Nightshift, durable", KEEPS, enqueue_durable, prefork),
        Side("Nightshift, durable, two solo workers", KEEPS, enqueue_durable, solos),
        Side("Nightshift, broker-only", REDELIVERS, enqueue_broker_only, prefork),
        Side("Nightshift, broker-only, two solo workers", REDELIVERS, enqueue_broker_only, solos),
    ]


def celery(app: str, include: str, *options: str) -> list[str]:
    included = ["--include", include] if include else []
    return [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "WARNING", *included, *options]


def enqueue_plain(jobs: int) -> None:
    with plain.app.producer_pool.acquire(block=True) as producer, producer.batch():
        for task in (plain.stamp, *[plain.nothing_late] * jobs, plain.stamp):
            task.apply_async(producer=producer)


def enqueue_durable(jobs: int) -> None:
    from apps.jobs.relay import Relay

    tasks.stamp.delay()
    tasks.nothing.delay_many([{}] * jobs)
    tasks.stamp.delay()
    relay = Relay(nightshift_app)
    while relay.publish_due():
        pass


def enqueue_broker_only(jobs: int) -> None:
    with nightshift_app.producer_pool.acquire(block=True) as producer, producer.batch():
        for task in (tasks.stamp_broker_only, *[tasks.nothing_broker_only] * jobs, tasks.stamp_broker_only):
            task.apply_async(producer=producer)


# --- The others -------------------------------------------------------------------------------------------------------


def peers() -> list[Side]:
    bin_ = ENVIRONMENT / "bin"
    database = peer_database()
    quiet = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    procrastinate = [f"{bin_}/procrastinate", "-a", "bench.peer.with_procrastinate.app"]
    return [
        peer(
            "tuned Celery",
            "celery",
            MAY_LOSE,
            [f"{bin_}/celery", "-A", "bench.peer.with_celery", "worker", "-c2", *quiet],
        ),
        peer("dramatiq", "dramatiq", MAY_LOSE, [f"{bin_}/dramatiq", "bench.peer.with_dramatiq", "-p2", "-t1"]),
        peer(
            "rq",
            "rq",
            MAY_LOSE,
            *[[f"{bin_}/rq", "worker", "--quiet", "--url", os.environ["BENCH_PEER_URL"]]] * 2,
            jobs=400,
        ),
        peer("huey", "huey", MAY_LOSE, [f"{bin_}/huey_consumer", "bench.peer.with_huey.huey", "-w2", "-kprocess"]),
        peer(
            "taskiq", "taskiq", REDELIVERS, [f"{bin_}/taskiq", "worker", "bench.peer.with_taskiq:broker", "--workers=2"]
        ),
        peer(
            "procrastinate",
            "procrastinate",
            KEEPS,
            *[[*procrastinate, "worker", "--concurrency=1"]] * 2,
            prepare=[*procrastinate, "schema", "--apply"],
            jobs=1_000,
        ),
        peer(
            "django-tasks-db",
            "django_tasks",
            KEEPS,
            *[python("from bench.peer.with_django_tasks import work; work()")] * 2,
            prepare=python("from bench.peer.with_django_tasks import install; install()"),
            jobs=400,
        ),
        peer(
            "pgqueuer",
            "pgqueuer",
            KEEPS,
            *[python("from bench.peer.with_pgqueuer import work; work()")] * 2,
            prepare=[f"{bin_}/pgq", "--pg-dsn", database, "install"],
        ),
    ]


def peer(
    name: str, module: str, promise: str, *workers: list[str], prepare: Sequence[str] = (), jobs: int = 4_000
) -> Side:
    def enqueue(jobs: int) -> None:
        run(python(f"from bench.peer.with_{module} import enqueue; enqueue({jobs})"))

    environment = {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""}
    return Side(name, promise, enqueue, workers, environment, lambda: run(prepare) if prepare else None, jobs)


def python(line: str) -> list[str]:
    return [str(ENVIRONMENT / "bin" / "python"), "-c", line]


def run(command: Sequence[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def peer_database() -> str:
    """A database beside Nightshift's, made once."""
    address = urlsplit(os.environ["DATABASE_URL"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'peers'")
        if cursor.fetchone() is None:
            cursor.execute("CREATE DATABASE peers")
    url = urlunsplit(address._replace(scheme="postgresql", path="/peers"))
    os.environ["BENCH_PEER_DATABASE"] = url
    return url
