"""Who is measured: how each is asked for jobs, and the commands that run them in two processes."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from django.db import connection

from apps.local.children import family_of, kill_tree, spawn
from apps.local.places import ROOT
from bench import written

POOL_SIZE = "2"
BASE = "plain Celery"
DURABLE = "Nightshift, durable"
SOLO = ", two solo workers"
BROKER_ONLY = "Nightshift, broker-only"
UNSENT = "Nightshift, durable, not sent yet"
ATOMIC = "Nightshift, durable, atomic"

KEEPS = "at least once; the job and its caller's rows commit together"
ONCE = "the same, and its own rows exactly once"
REDELIVERS = "at least once, if Redis keeps its memory"
MAY_LOSE = "may lose jobs"

TRUNCATE_ALL = """
    DO $$ BEGIN EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' CASCADE'
        FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%migrations'); END $$
"""

# A task by the name "nothing", "write" or "stamp", and how many jobs of it.
Wish = tuple[str, int]


@dataclass(frozen=True)
class Side:
    """
    fill: has a worker find these jobs, in this order.
    rates: jobs a second that are asked for, so many one by one and so many together; None if another side's are the
    same.
    share: of the jobs that the others are given, for those that are much slower or faster.
    starts: after how many milliseconds so many jobs started, asked for one at a time on an idle worker.
    """

    name: str
    promise: str
    fill: Callable[[Sequence[Wish]], None]
    rates: Callable[[int, int], tuple[float, float]] | None
    workers: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0
    starts: Callable[[int], list[float]] | None = None


@contextmanager
def working(side: Side, logs: Path) -> Iterator[list[int]]:
    """Their output goes to a file: a pipe that nobody reads would fill up. Yields the processes' ids."""
    log = logs / f"{side.name.replace(' ', '-').replace(',', '')}.log"
    environment = {**os.environ, **side.environment}
    processes = [spawn(command, log=log, cwd=ROOT, env=environment) for command in side.workers]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """What it had is forgotten, so nothing has to end well."""
    for member in family_of(process.pid)[:1]:
        kill_tree(member)
    process.wait()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of these processes and their pools, so far; with the children that they have replaced meanwhile."""
    seconds = 0.0
    for member in (member for pid in pids for member in family_of(pid)):
        with suppress(psutil.NoSuchProcess):  # rq makes a process for each job
            seconds += sum(member.cpu_times()[:4])
    return seconds


def forget_everything() -> None:
    for name in ("BENCH_PEER_URL", "BENCH_STAMPS_URL", "BENCH_PLAIN_URL", "REDIS_URL"):
        with redis.Redis.from_url(os.environ[name]) as client:
            client.flushdb()
    with connection.cursor() as cursor:
        cursor.execute(written.TABLE)
        cursor.execute("TRUNCATE jobs_job, bench_written")
    with psycopg.connect(os.environ["BENCH_PEER_DATABASE"], autocommit=True) as session:
        session.execute(TRUNCATE_ALL)


def rate_of(ask: Callable[[], Any], times: int) -> float:
    """A second; connections are made before."""
    ask()
    began = time.perf_counter()
    for _ in range(times):
        ask()
    return times / (time.perf_counter() - began)
