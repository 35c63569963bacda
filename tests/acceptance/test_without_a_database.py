"""PostgreSQL away, at the worst moment: nothing is lost, and everything goes on by itself when it is back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import Q
from django.utils import timezone

from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from tasks.lab import lab_add, lab_nothing
from tests.acceptance.misbehaviour import BROKER_ONLY, DURABLE, ENDS, note
from tests.acceptance.site import Site, eventually
from tests.jobs.malformed import packed

ALL = len(ENDS)


def a_job(task: str, **fields: Any) -> NewJob:
    return NewJob(**{"task": task, "args": [], "kwargs": {}, "queue": "default", **fields})


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


# What is wrong with a message that reaches no task, and the kind of its letter. Its body shows its id, because of what
# is no task call that is all that the letter knows.
NEVER_RUN: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "undecodable body": (lambda task_id: {"body": f"{{not JSON {task_id}".encode()}, "undecodable"),
    "wrong content type": (
        lambda task_id: {"body": task_id.encode(), "content-type": "application/x-nothing"},
        "undecodable",
    ),
    "unknown task": (
        lambda task_id: {"headers": {"id": task_id, "task": "tasks.of_the_next_release"}, "body": [[task_id], {}, {}]},
        "unknown_task",
    ),
    "wrong arguments": (lambda task_id: {"headers": {"id": task_id}, "body": [[1], {}, {}]}, "wrong_arguments"),
    "expired": (lambda task_id: {"headers": {"id": task_id, "expires": "2020-01-01T00:00:00+00:00"}}, "expired"),
}
NEVER_RUN_OF_THE_LEDGER: dict[str, tuple[NewJob, str]] = {
    "durable unknown task": (a_job("acceptance.of_the_next_release"), "unknown_task"),
    "durable wrong arguments": (a_job("tasks.lab_add", args=[1, 2, 3]), "wrong_arguments"),
    "durable expired": (a_job("tasks.lab_nothing", expires_at=datetime(2020, 1, 1, tzinfo=UTC)), "expired"),
}


def test_a_message_that_reaches_no_task_and_comes_just_then_still_leaves_its_letter(site: Site) -> None:
    eventually(site.is_idle)
    ids = {how: str(uuid4()) for how in NEVER_RUN}
    jobs = {how: str(sent(job)) for how, (job, _) in NEVER_RUN_OF_THE_LEDGER.items()}
    site.postgres.stop()
    for how, job_id in jobs.items():
        job, _ = NEVER_RUN_OF_THE_LEDGER[how]
        site.push(packed(headers={"task": job.task, "id": job_id, "ledger": True}, body=[job.args, job.kwargs, {}]))
    for how, task_id in ids.items():
        site.push(packed(**NEVER_RUN[how][0](task_id)))
    eventually(lambda: waiting(site) == len(ids) + len(jobs), describe=lambda: site.last_words("worker"))
    site.postgres.start()
    kinds = {how: [kind] for how, (_, kind) in (NEVER_RUN | NEVER_RUN_OF_THE_LEDGER).items()}
    everything = ids | jobs
    eventually(
        lambda: kinds_found(everything) == kinds,
        describe=lambda: (kinds_found(everything), site.last_words("worker")),
    )
    eventually(site.is_idle)
    assert kinds_found(everything) == kinds


@pytest.mark.parametrize("how", ["its child is killed", "its worker is stopped"])
def test_a_message_of_another_producer_is_kept_though_nobody_could_make_a_row_of_it(site: Site, how: str) -> None:
    """It is all there is of the job."""
    eventually(site.is_idle)
    site.postgres.stop()
    task_id = str(uuid4())
    site.push(packed(headers={"id": task_id, "task": "tasks.lab_nothing"}, body=[[], {}, {}]))
    eventually(lambda: f"{task_id}] received" in site.log("worker").read_text())
    if how == "its child is killed":
        for child in site.children("worker"):
            child.kill()
        eventually(lambda: f"{task_id}] lost its process" in site.log("worker").read_text())
        site.postgres.start()
    else:
        site.terminate("worker", timeout=60)
        site.postgres.start()
        site.start_worker()
    eventually(lambda: has_ended(task_id), timeout=30, describe=lambda: site.last_words("worker"))


def has_ended(task_id: str) -> bool:
    return Job.objects.filter(pk=task_id, state=Job.State.SUCCEEDED).exists()


def sent(job: NewJob) -> UUID:
    """Its message is on the way, and the relay has no reason to send another."""
    [recorded] = ledger.record([replace(job, id=uuid4(), delay=3600)])
    Job.objects.filter(pk=recorded.id).update(state=Job.State.SENT, sent_at=timezone.now(), run_at=timezone.now())
    return recorded.id


def kinds_found(ids: dict[str, str]) -> dict[str, list[str]]:
    """Of the letters for each job, or for the message that shows its id."""
    return {
        how: list(
            DeadLetter.objects.filter(Q(job_id=task_id) | Q(args__0__icontains=task_id)).values_list("kind", flat=True)
        )
        for how, task_id in ids.items()
    }


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
