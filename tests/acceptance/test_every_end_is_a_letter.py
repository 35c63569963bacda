"""Every way to end that is not success, made to happen with a real worker: the dead letter is there."""

import json
import os
from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.jobs import ledger, rescue
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from tests.acceptance.misbehaviour import BROKER_ONLY, DURABLE, ENDS, note, note_broker_only
from tests.acceptance.site import Site, eventually
from tests.jobs.malformed import KINDS as KINDS_OF_UNUSABLE
from tests.jobs.malformed import UNUSABLE, addressed, envelope, kinds_of_letters

Started = dict[str, Any]
# A task that knows no limit, and a call that sets one.
FOR_A_MINUTE = {"book": os.devnull, "seconds": 60}
LIMITS_OF_THE_CALL: dict[str, dict[str, float]] = {
    "soft time limit of the call": {"soft_time_limit": 1, "time_limit": 60},
    "hard time limit of the call": {"time_limit": 1},
}


def record(task: str, **options: Any) -> UUID:
    """A job as an older or newer release would have recorded it, past the checks of this one."""
    return ledger.record([NewJob(**{"task": task, "args": [], "kwargs": {}, "queue": "default", **options})])[0].id


def push(site: Site, headers: dict[str, Any] | None = None, **options: Any) -> UUID:
    """A message for a broker-only task, made by hand."""
    task_id = uuid4()
    call = envelope(headers={"task": "tasks.lab_nothing_broker_only", "id": str(task_id), **(headers or {})}, **options)
    site.push(json.dumps(call).encode())
    return task_id


@pytest.fixture(scope="module")
def durable_jobs(installation: Site, django_db_blocker: Any) -> Started:
    """All at once: some need seconds to run into their limit."""
    with django_db_blocker.unblock():
        installation.make_whole()
        jobs: Started = {how: UUID(task.delay().id) for how, task in DURABLE.items()}
        jobs["unknown task"] = record("acceptance.of_the_next_release")
        jobs["wrong arguments"] = record("tasks.lab_add", args=[1, 2, 3])
        jobs["expired"] = UUID(DURABLE["permanent error"].apply_async(expires=-1).id)
        for how, limits in LIMITS_OF_THE_CALL.items():
            jobs[how] = UUID(note.apply_async(kwargs=FOR_A_MINUTE, **limits).id)
    return jobs


@pytest.fixture(scope="module")
def broker_only_jobs(installation: Site, django_db_blocker: Any) -> Started:
    with django_db_blocker.unblock():
        installation.make_whole()
        jobs: Started = {how: UUID(installation.publish(task).id) for how, task in BROKER_ONLY.items()}
        jobs["wrong arguments"] = push(installation, body=[[1, 2, 3], {}, {}])
        jobs["expired"] = UUID(installation.publish(BROKER_ONLY["permanent error"], expires=-1).id)
        for how, limits in LIMITS_OF_THE_CALL.items():
            jobs[how] = UUID(installation.publish(note_broker_only, kwargs=FOR_A_MINUTE, **limits).id)
    return jobs


KINDS = {**{how: kind for how, (_, _, kind) in ENDS.items()}, **dict.fromkeys(LIMITS_OF_THE_CALL, "time_limit")}
DURABLE_KINDS = {**KINDS, "unknown task": "unknown_task", "wrong arguments": "wrong_arguments", "expired": "expired"}
BROKER_ONLY_KINDS = {**KINDS, "wrong arguments": "wrong_arguments", "expired": "expired"}


def letter_of(job_id: UUID) -> DeadLetter | None:
    return DeadLetter.objects.filter(job_id=job_id).first()


@pytest.mark.parametrize(("how", "kind"), DURABLE_KINDS.items(), ids=DURABLE_KINDS.keys())
def test_a_durable_job_that_ends_badly_leaves_a_letter(site: Site, durable_jobs: Started, how: str, kind: str) -> None:
    letter = eventually(lambda: letter_of(durable_jobs[how]), describe=lambda: site.last_words("worker"))
    job = Job.objects.get(pk=durable_jobs[how])
    assert (letter.kind, job.state, letter.durable) == (kind, Job.State.DEAD, True)
    assert letter.message
    assert letter.fingerprint
    assert job.errors


@pytest.mark.parametrize(("how", "kind"), BROKER_ONLY_KINDS.items(), ids=BROKER_ONLY_KINDS.keys())
def test_a_broker_only_job_that_ends_badly_leaves_a_letter(
    site: Site, broker_only_jobs: Started, how: str, kind: str
) -> None:
    letter = eventually(lambda: letter_of(broker_only_jobs[how]), describe=lambda: site.last_words("worker"))
    assert (letter.kind, letter.durable) == (kind, False)
    assert not Job.objects.filter(pk=broker_only_jobs[how]).exists()


def test_a_job_that_kills_each_child_that_runs_it_gets_so_many_and_no_more(site: Site, durable_jobs: Started) -> None:
    job_id = durable_jobs["child killed"]
    eventually(lambda: letter_of(job_id))
    job = Job.objects.get(pk=job_id)
    assert job.crashes == rescue.crashes_allowed(job)
    assert job.attempts == job.crashes + 1 == len(job.errors)


def test_no_way_to_end_takes_the_worker_along(site: Site, durable_jobs: Started, broker_only_jobs: Started) -> None:
    pid = site.pid("worker")
    eventually(site.is_idle, describe=lambda: list(Job.objects.filter(state__in=Job.LIVE).values_list("task", "state")))
    assert site.pid("worker") == pid
    assert site.is_running("worker")


def test_every_malformed_message_is_one_letter_and_the_worker_outlives_them_all(site: Site) -> None:
    eventually(site.is_idle)
    pid, before = site.pid("worker"), list(DeadLetter.objects.values_list("pk", flat=True))
    letters = DeadLetter.objects.exclude(pk__in=before)
    for name in UNUSABLE:
        site.push(addressed(name))
    eventually(
        lambda: letters.count() >= len(UNUSABLE),
        describe=lambda: (letters.count(), len(UNUSABLE), site.last_words("worker")),
    )
    result = DURABLE["permanent error"].delay()
    eventually(lambda: letter_of(UUID(result.id)))
    eventually(site.is_idle)
    assert kinds_of_letters(letters.all()) == {name: [kind] for name, kind in KINDS_OF_UNUSABLE.items()}
    assert letters.count() == len(UNUSABLE) + 1
    assert site.is_running("worker")
    assert site.pid("worker") == pid


CORRUPTED: dict[str, dict[str, Any]] = {
    "undecodable body": {"body": b"{not JSON"},
    "wrong content type": {"content-type": "application/x-nothing"},
}


def test_a_job_whose_message_was_corrupted_on_its_way_runs_all_the_same(site: Site) -> None:
    """The letter is the message's, which no retry of the job uses again: it is there beside a job that succeeds."""
    jobs = {how: record("tasks.lab_nothing", delay=3600) for how in CORRUPTED}
    Job.objects.filter(pk__in=jobs.values()).update(state=Job.State.SENT, sent_at="2024-02-05T09:00Z")
    for how, job_id in jobs.items():
        # Nobody looks for this queue, and the letter has its name.
        address = {"delivery_info": {"exchange": "", "routing_key": str(job_id)}}
        push(site, headers={"id": str(job_id), "ledger": True}, properties=address, **CORRUPTED[how])
    letters = DeadLetter.objects.filter(queue__in=map(str, jobs.values()))
    eventually(lambda: letters.count() == len(jobs), describe=lambda: site.last_words("worker"))
    assert set(letters.values_list("kind", "durable", "job_id")) == {("undecodable", False, None)}
    eventually(lambda: ledger.hurry(jobs.values()) is not None and have_succeeded(jobs))
    assert letters.count() == len(jobs)


def have_succeeded(jobs: Started) -> bool:
    return Job.objects.filter(pk__in=jobs.values(), state=Job.State.SUCCEEDED).count() == len(jobs)
