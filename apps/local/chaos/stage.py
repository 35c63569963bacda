"""Set the stage: servers, tables, seed, processes, and a schedule for the beats to keep."""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import requests
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from apps.jobs.models import SchedulePolicy
from apps.local.account import elsewhere
from apps.local.chaos.world import BEATS, QUEUES_OF, RELAYS, TICK_SECONDS, WORKERS, World
from apps.local.places import ROOT
from apps.local.waiting import wait_for

# Seven processes start at once, on two cores that others may use too.
PATIENCE = 90.0
# Half of the jobs in the mix sleep for a second or two.
POOL_SIZE = 6
GREENLETS = 20


class StageFailed(Exception):
    """Something did not come up; the message says what, and where to read on."""


def set_stage(world: World) -> None:
    world.say("starting PostgreSQL and Valkey")
    world.postgres.start()
    world.valkey.start()
    start_sandbox(world)
    world.say("migrating and seeding")
    manage(world, "migrate", "--verbosity=0")
    manage(world, "seed")
    world.witness.prepare()
    make_schedule()
    world.say("starting web, relays, beats and workers")
    start_processes(world)
    wait_until_up(world)


def manage(world: World, *command: str) -> None:
    log = world.fleet.log(command[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        result = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=world.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if result.returncode:
        raise StageFailed(f"manage.py {command[0]} failed (see {log})")


def make_schedule() -> None:
    interval, _ = IntervalSchedule.objects.get_or_create(every=TICK_SECONDS, period=IntervalSchedule.SECONDS)
    schedule, _ = PeriodicTask.objects.get_or_create(name="chaos", task="chaos.tick", interval=interval)
    SchedulePolicy.objects.update_or_create(
        schedule=schedule,
        # A tick runs however late, and whatever became of the one before.
        defaults={"overlap": SchedulePolicy.Overlap.ALLOW, "late_after": timedelta(hours=1)},
    )


def start_sandbox(world: World) -> None:
    http, mail = (str(urlsplit(world.environment[name]).port) for name in ("SANDBOX_URL", "EMAIL_URL"))
    world.fleet.add("sandbox", "python", "manage.py", "sandbox", "--port", http, "--mail-port", mail)


def start_processes(world: World) -> None:
    port = world.environment["PORT"]
    world.fleet.add("web", "uvicorn", "config.asgi:application", "--port", port, "--no-access-log")
    for relay in RELAYS:
        world.fleet.add(relay, "python", "manage.py", "relay")
    for worker in WORKERS:
        start_worker(world, worker)
    for beat in BEATS:
        world.fleet.add(beat, "celery", "-A", "config", "beat", "--loglevel=INFO")


def start_worker(world: World, worker: str) -> None:
    gevent = ["--pool=gevent", f"--concurrency={GREENLETS}"]
    pool = gevent if worker == "worker-io" else [f"--concurrency={POOL_SIZE}"]
    name = f"--hostname={worker}@chaos"
    world.fleet.add(worker, "celery", "-A", "config", "worker", name, "-Q", QUEUES_OF[worker], "--loglevel=INFO", *pool)


def wait_until_up(world: World) -> None:
    def are_up() -> bool:
        world.fleet.tend()
        return workers_up(world) == len(WORKERS) and serves_pages(world)

    if not wait_for(are_up, PATIENCE, every=0.3):
        raise StageFailed(f"Not everything came up in {PATIENCE:.0f} s (see {world.fleet.logs})")


def workers_up(world: World) -> int:
    return int(world.witness.value("SELECT count(DISTINCT name) FROM jobs_worker WHERE stopped_at IS NULL"))


def serves_pages(world: World) -> bool:
    try:
        answer = requests.get(f"http://127.0.0.1:{world.environment['PORT']}/login/", timeout=5)
    except requests.RequestException:
        return False
    return answer.status_code == 200


def fresh_folder(folder: Path) -> Path:
    """`var/chaos/<seed>`: an earlier run of the same seed is moved aside, once."""
    # PostgreSQL's data may lie elsewhere, where it would be found again, and has another password.
    shutil.rmtree(elsewhere(folder / "postgres"), ignore_errors=True)
    if folder.exists():
        old = folder.with_name(f"{folder.name}.old")
        subprocess.run(["rm", "-rf", str(old)], check=True)
        folder.rename(old)
    folder.mkdir(parents=True)
    return folder
