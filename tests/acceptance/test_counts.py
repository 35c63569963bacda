"""What real processes count, against what was asked of them."""

from typing import Any

from apps.jobs.metrics.counts import COUNTERS
from apps.jobs.models import TaskTotal
from tasks.lab import lab_add, lab_crash_once, lab_fail
from tests.acceptance.site import Site, eventually


def counted(task: str) -> dict[str, int]:
    row = TaskTotal.objects.filter(task=task).first()
    return {name: number for name in COUNTERS if (number := getattr(row, name, 0))}


def increase(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def grows_by(task: str, before: dict[str, int], expected: dict[str, int]) -> Any:
    return eventually(
        lambda: increase(before, counted(task)) == expected, describe=lambda: increase(before, counted(task))
    )


def test_each_of_a_hundred_jobs_is_counted_once_at_every_step(site: Site) -> None:
    before = counted(lab_add.name)
    lab_add.delay_many([{"x": x, "y": 1} for x in range(100)])
    grows_by(lab_add.name, before, {"sent": 100, "received": 100, "started": 100, "succeeded": 100})


def test_a_failure_and_a_lost_child_are_counted_as_what_they_are(site: Site) -> None:
    failed, crashed = counted(lab_fail.name), counted(lab_crash_once.name)
    lab_fail.delay()
    lab_crash_once.delay()
    grows_by(lab_fail.name, failed, {"sent": 1, "received": 1, "started": 1, "failed": 1})
    grows_by(lab_crash_once.name, crashed, {"sent": 2, "received": 2, "started": 2, "retried": 1, "succeeded": 1})


def test_a_worker_that_is_stopped_writes_what_it_has_counted(site: Site) -> None:
    before = counted(lab_add.name)
    lab_add.delay(x=1, y=1)
    eventually(site.is_idle)
    site.terminate("worker")
    assert increase(before, counted(lab_add.name))["succeeded"] == 1
