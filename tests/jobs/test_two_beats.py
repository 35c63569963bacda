"""Beat as real processes: two of them run each tick once, and one is enough."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from apps.jobs.models import Job, SchedulePolicy
from apps.local.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)

# A process takes seconds to import everything on a busy machine.
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    assert wait_for(lambda: bool(condition()), within, every=0.1), f"not within {within} seconds"


class Beat:
    def __init__(self, servers: dict[str, str], log: Path) -> None:
        self.log = log
        base, _, _ = servers["DATABASE_URL"].rpartition("/")
        environment = {**os.environ, **servers, "DATABASE_URL": f"{base}/{connection.settings_dict['NAME']}"}
        command = [sys.executable, "-m", "celery", "-A", "config", "beat", "--loglevel", "info", "--max-interval", "1"]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=settings.BASE_DIR, stdout=output, stderr=subprocess.STDOUT
            )

    def leads(self) -> bool:
        return "This beat leads" in self.log.read_text()

    def is_up(self) -> bool:
        return "beat: Starting" in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_beat(servers: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Beat]]:
    with ExitStack() as stack:

        def start(name: str) -> Beat:
            beat = Beat(servers, tmp_path / f"{name}.log")
            stack.callback(beat.kill)
            return beat

        yield start


@pytest.fixture
def every_second() -> PeriodicTask:
    PeriodicTask.objects.all().delete()
    interval, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    model = PeriodicTask.objects.create(
        name="every second", task="tasks.lab_nothing", interval=interval, last_run_at=timezone.now()
    )
    SchedulePolicy.objects.create(schedule=model, missed="skip", overlap="allow", late_after=timedelta(seconds=5))
    return model


def ticks(model: PeriodicTask) -> int:
    model.refresh_from_db()
    return int(model.total_run_count)


def test_two_beats_run_each_tick_once_and_the_second_takes_over_when_the_first_is_killed(
    every_second: PeriodicTask, start_beat: Callable[[str], Beat]
) -> None:
    beats = [start_beat("one"), start_beat("two")]
    wait_until(lambda: all(beat.is_up() for beat in beats) and any(beat.leads() for beat in beats))
    [leader] = [beat for beat in beats if beat.leads()]
    [standby] = [beat for beat in beats if beat is not leader]
    before, began = ticks(every_second), time.monotonic()
    wait_until(lambda: ticks(every_second) >= before + 4)
    assert ticks(every_second) <= before + time.monotonic() - began + 2, "one a second, not two"

    leader.kill()
    at_death = ticks(every_second)
    wait_until(lambda: ticks(every_second) >= at_death + 2, within=10)
    assert standby.leads()

    standby.kill()
    assert Job.objects.count() == ticks(every_second)


def test_a_beat_that_loses_all_its_sessions_goes_on(
    every_second: PeriodicTask, start_beat: Callable[[str], Beat]
) -> None:
    beat = start_beat("one")
    wait_until(lambda: ticks(every_second) > 0)

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    seen = ticks(every_second)

    wait_until(lambda: ticks(every_second) >= seen + 2, within=10)
    assert beat.process.poll() is None
