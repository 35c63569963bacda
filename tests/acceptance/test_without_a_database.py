"""PostgreSQL away, at the worst moment: nothing is lost, and everything goes on by itself when it is back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.jobs.models import DeadLetter, Job
from tasks.lab import lab_add, lab_nothing
from tests.acceptance.misbehaviour import BROKER_ONLY, DURABLE, ENDS, note
from tests.acceptance.site import Site, eventually
from tests.jobs.malformed import packed

ALL = len(ENDS)


def without_a_letter(jobs: dict[str, UUID]) -> list[str]:
    written = set(DeadLetter.objects.values_list("job_id", flat=True))
    return [how for how, job_id in jobs.items() if job_id not in written]


def lines(site: Site, name: str) -> list[str]:
    return site.log(name).read_text(errors="replace").splitlines()


def fail_together(site: Site, gate: Path, start: Callable[[str, Any], str]) -> dict[str, UUID]:
    """Start one job for every way to end, and let them all end while PostgreSQL is stopped."""
    jobs = {how: UUID(start(how, {"gate": str(gate)})) for how in ENDS}
    eventually(lambda: len(list(gate.parent.glob("gate.*"))) >= ALL, describe=lambda: site.last_words("worker"))
    site.postgres.stop()
    gate.touch()
    return jobs


def test_a_durable_job_that_ends_badly_just_then_still_leaves_its_letter(site: Site, tmp_path: Path) -> None:
    jobs = fail_together(site, tmp_path / "gate", lambda how, kwargs: DURABLE[how].delay(**kwargs).id)
    eventually(lambda: any("Hard time limit" in line for line in lines(site, "worker")))
    site.postgres.start()
    eventually(lambda: not without_a_letter(jobs), describe=lambda: (without_a_letter(jobs), site.last_words("worker")))
    assert Job.objects.filter(pk__in=jobs.values(), state=Job.State.DEAD).count() == ALL


def test_a_broker_only_job_that_ends_badly_just_then_still_leaves_its_letter(site: Site, tmp_path: Path) -> None:
    start = lambda how, kwargs: site.publish(BROKER_ONLY[how], kwargs=kwargs).id  # noqa: E731
    jobs = fail_together(site, tmp_path / "gate", start)
    eventually(lambda: any("hard_limit" in line and "cannot be written yet" in line for line in lines(site, "worker")))
    site.postgres.start()
    eventually(lambda: not without_a_letter(jobs), describe=lambda: (without_a_letter(jobs), site.last_words("worker")))


def test_a_malformed_message_that_comes_just_then_still_leaves_its_letter(site: Site) -> None:
    eventually(site.is_idle)
    before = DeadLetter.objects.count()
    task_id = str(uuid4())
    site.postgres.stop()
    # Not the one that other tests push: a message that comes again has its letter already.
    site.push(packed(body=b"{not JSON"))
    site.push(packed(headers={"task": "tasks.of_the_next_release", "id": task_id}))
    eventually(lambda: waiting(site) == 2)
    site.postgres.start()
    eventually(lambda: DeadLetter.objects.count() == before + 2, describe=lambda: site.last_words("worker"))
    eventually(site.is_idle)


def waiting(site: Site) -> int:
    """Messages that the worker has in its hands."""
    with site.valkey.client() as client:
        return int(client.hlen("unacked"))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_under_load_loses_no_job_and_needs_no_hand(site: Site, mode: Any) -> None:
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(150)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() > 10)
    site.postgres.restart(mode)
    eventually(
        lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() == len(ids),
        describe=lambda: list(Job.objects.filter(pk__in=ids).values_list("state", "attempts").distinct()),
    )
    result = lab_nothing.delay()
    eventually(lambda: Job.objects.get(pk=result.id).state == Job.State.SUCCEEDED)
    assert site.is_running("worker")
    assert site.is_running("relay")


def test_a_job_that_outlasts_the_outage_runs_once(site: Site, book: Path) -> None:
    """Its lease runs out meanwhile, and nobody could renew it: the living get a lease's time to do so."""
    result = note.delay(book=str(book), seconds=8)
    eventually(lambda: "start" in book.read_text())
    site.postgres.stop()
    eventually(lambda: "not renewed" in site.log("worker").read_text())
    site.postgres.start()
    eventually(lambda: Job.objects.get(pk=result.id).state == Job.State.SUCCEEDED)
    job = Job.objects.get(pk=result.id)
    assert (job.attempts, job.crashes) == (1, 0)
    assert book.read_text().count("start") == 1
