"""The same for every broker: real servers, a real relay and real workers.

`make brokers` runs all of it; `make test` only a smoke test. What is not to be had, and why, says
apps/local/broker_table.py.
"""

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.jobs import ledger, queues
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from apps.local.ports import any_port
from config.broker import DELIVERY_LIMIT
from tasks.lab import lab_add, lab_fail, lab_flaky, lab_nothing
from tests.acceptance.misbehaviour import note, note_steps
from tests.acceptance.site import eventually
from tests.brokers.site import BrokerSite
from tests.jobs.malformed import UNUSABLE

State = Job.State

# What each transport has to survive by itself, rather than the consumer: tests/jobs/test_consumer.py has the others.
RUBBISH = ("envelope is not JSON", "envelope is a list", "envelope is a number", "envelope has no properties")


def job_of(result: Any) -> Job:
    return Job.objects.get(pk=getattr(result, "id", result))


def has_ended(result: Any) -> bool:
    return job_of(result).state in Job.ENDED


def starts(book: Path) -> Counter[str]:
    lines = (line.split() for line in book.read_text().splitlines())
    return Counter(who for what, who in lines if what == "start")


@pytest.mark.capability("drain")
def test_every_job_runs_once(site: BrokerSite, book: Path) -> None:
    ids = note.delay_many([{"book": str(book)} for _ in range(60)])
    eventually(
        lambda: Job.objects.filter(pk__in=ids, state=State.SUCCEEDED).count() == 60,
        describe=lambda: site.last_words("worker") + site.last_words("relay"),
    )
    assert starts(book) == Counter(ids)
    eventually(site.is_idle, describe=site.kind.size)


@pytest.mark.capability("drain")
def test_a_job_with_large_arguments_runs(site: BrokerSite) -> None:
    result = lab_fail.delay("x" * 150_000)
    eventually(lambda: has_ended(result), describe=lambda: site.last_words("relay"))
    assert DeadLetter.objects.get(job_id=result.id).exception == "LabError"


@pytest.mark.capability("retries")
def test_a_job_that_fails_is_tried_again_after_its_delay(site: BrokerSite) -> None:
    result = lab_flaky.delay(failures=1)
    eventually(lambda: has_ended(result))
    job = job_of(result)
    assert (job.state, job.retries, job.attempts) == (State.SUCCEEDED, 1, 2)
    assert (job.finished_at - job.created_at).total_seconds() > 1  # type: ignore[operator]


@pytest.mark.capability("eta")
def test_a_job_for_later_runs_then_and_not_before(site: BrokerSite) -> None:
    later = lab_nothing.apply_async(countdown=1.5)
    now = lab_nothing.delay()
    eventually(lambda: has_ended(now))
    eventually(lambda: has_ended(later))
    job = job_of(later)
    assert job.started_at
    assert job.started_at >= job.run_at


@pytest.mark.capability("routing")
def test_a_worker_takes_only_from_its_own_queues(site: BrokerSite) -> None:
    site.kill9("worker")
    site.start_worker("low", "--queues=low", concurrency=1)
    here, elsewhere = lab_nothing.apply_async(queue="low"), lab_nothing.apply_async(queue="high")
    eventually(lambda: has_ended(here))
    eventually(lambda: job_of(elsewhere).state == State.SENT)
    assert job_of(here).worker_id == site.worker_row("low").pk
    site.start_worker()
    eventually(lambda: has_ended(elsewhere))
    assert job_of(elsewhere).worker_id == site.worker_row().pk


@pytest.mark.capability("priority")
def test_of_those_that_wait_the_urgent_come_first(site: BrokerSite, book: Path) -> None:
    site.kill9("worker")
    late = [note.apply_async(kwargs={"book": str(book)}, priority=9).id for _ in range(5)]
    soon = [note.apply_async(kwargs={"book": str(book)}, priority=0).id for _ in range(5)]
    eventually(lambda: Job.objects.filter(pk__in=late + soon, state=State.SENT).count() == 10)
    site.start_worker(concurrency=1)
    eventually(lambda: len(starts(book)) == 10)
    order = list(starts(book))
    # kombu takes the queue of one step after the other, so a message of the next step may be between two.
    assert set(order[:4]) <= set(soon), order


@pytest.mark.capability("letters")
def test_a_job_that_fails_for_good_is_a_dead_letter(site: BrokerSite) -> None:
    durable = lab_fail.delay()
    broker_only = site.send("tasks.lab_fail_broker_only", {})
    letters = DeadLetter.objects.filter(job_id__in=[durable.id, broker_only], kind="permanent")
    eventually(lambda: letters.count() == 2)
    eventually(site.is_idle, describe=site.kind.size)


@pytest.mark.capability("letters")
@pytest.mark.parametrize(
    "headers",
    [{"note": "x" * 200_000}, {"number": 2**63}, {"n" * 256: 1}, {"MessageGroupId": " "}, {"MessageGroupId": 7}],
    ids=["large", "a large number", "a long name", "a blank group", "a group that is a number"],
)
def test_a_job_with_odd_headers_runs_or_is_a_dead_letter_and_stops_no_other(
    site: BrokerSite, headers: dict[str, Any]
) -> None:
    pid, odd = site.pid("relay"), lab_nothing.apply_async(headers=headers)
    eventually(lambda: has_ended(odd), describe=lambda: site.last_words("relay"))
    assert job_of(odd).state in (State.SUCCEEDED, State.DEAD)
    result = lab_nothing.delay()
    eventually(lambda: has_ended(result), describe=lambda: site.last_words("relay"))
    assert site.pid("relay") == pid


@pytest.mark.capability("duplicates")
def test_a_job_whose_message_comes_many_times_runs_once(site: BrokerSite, book: Path) -> None:
    kwargs = {"book": str(book), "seconds": 0.5}
    [recorded] = ledger.record([NewJob(task="acceptance.note", args=[], kwargs=kwargs, queue="default", delay=3600)])
    for _ in range(5):
        site.send("acceptance.note", kwargs, job_id=recorded.id, ledger=True)
    ledger.hurry([recorded.id])
    eventually(lambda: has_ended(recorded.id))
    site.send("acceptance.note", kwargs, job_id=recorded.id, ledger=True)
    eventually(site.is_idle, describe=site.kind.size)
    assert starts(book) == {str(recorded.id): 1}


@pytest.mark.capability("killed")
def test_a_job_whose_worker_is_killed_runs_again(site: BrokerSite, book: Path) -> None:
    result = note.delay(book=str(book), seconds=1)
    eventually(lambda: starts(book))
    site.kill9("worker")
    site.start_worker()
    eventually(lambda: has_ended(result), describe=lambda: site.last_words("worker"))
    job = job_of(result)
    assert (job.state, job.attempts, job.crashes, starts(book)[result.id]) == (State.SUCCEEDED, 2, 1, 2)


@pytest.mark.capability("killed_broker_only")
def test_a_broker_only_job_whose_worker_is_killed_runs_again(site: BrokerSite, book: Path) -> None:
    site.send("acceptance.note_broker_only", {"book": str(book), "seconds": 1})
    eventually(lambda: starts(book))
    site.kill9("worker")
    site.start_worker()
    eventually(lambda: "end" in book.read_text(), describe=lambda: site.last_words("worker"))
    assert set(starts(book).values()) == {2}


@pytest.mark.capability("given_up")
def test_what_the_broker_has_given_up_on_is_a_dead_letter(site: BrokerSite, book: Path) -> None:
    from tests.brokers.kinds import connect

    site.kill9("worker")
    site.send("acceptance.note_broker_only", {"book": str(book)})
    with connect(site.kind) as connection:
        queue = connection.SimpleQueue("default", no_ack=False, queue_opts={"no_declare": True})
        for _ in range(DELIVERY_LIMIT + 1):
            queue.get(timeout=10).reject(requeue=True)
        queue.close()
    site.start_worker()
    letters = DeadLetter.objects.filter(task="acceptance.note_broker_only", kwargs={"book": str(book)})
    eventually(letters.exists, describe=lambda: site.last_words("worker"))
    assert (letters.get().kind, book.read_text()) == ("crashed", "")
    eventually(site.is_idle, describe=site.kind.size)


@pytest.mark.capability("deploy")
def test_a_deploy_hands_back_a_long_job_and_counts_nothing(site: BrokerSite, book: Path) -> None:
    result = note.delay(book=str(book), seconds=2.5)
    eventually(lambda: starts(book))
    site.terminate("worker")
    job = job_of(result)
    assert job.state in (State.QUEUED, State.SENT), site.log("worker").read_text()[-3_000:]
    assert (job.attempts, job.crashes, job.errors) == (0, 0, [])
    site.start_worker()
    eventually(lambda: has_ended(result))
    assert job_of(result).attempts == 1


@pytest.mark.capability("restart")
def test_a_broker_that_comes_back_finds_its_relay_and_its_workers(site: BrokerSite) -> None:
    pids = site.pid("relay"), site.pid("worker")
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(60)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=State.SUCCEEDED).exists())
    site.kind.restart()
    eventually(
        lambda: not Job.objects.filter(pk__in=ids).exclude(state=State.SUCCEEDED).exists(),
        describe=lambda: site.last_words("worker") + site.last_words("relay"),
    )
    after = lab_add.delay(x=1, y=1)
    eventually(lambda: has_ended(after), describe=lambda: site.last_words("worker") + site.last_words("relay"))
    assert (site.pid("relay"), site.pid("worker")) == pids
    assert site.is_running("worker"), site.last_words("worker")


@pytest.mark.capability("forgets")
def test_what_the_broker_has_forgotten_is_sent_again(site: BrokerSite) -> None:
    site.kill9("worker")
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(20)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=State.SENT).count() == 20)
    first_time = Job.objects.filter(pk__in=ids).latest("sent_at").sent_at
    site.kind.forget()
    # Before anybody consumes, for RabbitMQ is sure of it only then.
    eventually(lambda: Job.objects.filter(pk__in=ids, sent_at__gt=first_time).count() == 20)
    site.start_worker()
    eventually(
        lambda: Job.objects.filter(pk__in=ids, state=State.SUCCEEDED).count() == 20,
        describe=lambda: site.last_words("relay"),
    )


@pytest.mark.capability("unknown")
def test_a_job_that_no_worker_knows_ends_as_a_letter(site: BrokerSite) -> None:
    [recorded] = ledger.record([NewJob(task="tasks.of_the_next_release", args=[], kwargs={}, queue="default")])
    eventually(
        lambda: DeadLetter.objects.filter(job_id=recorded.id, kind="unknown_task").exists(),
        describe=lambda: f"{job_of(recorded.id).state} {site.last_words('worker')} {site.last_words('relay')}",
    )


@pytest.mark.capability("undecodable")
def test_a_message_that_cannot_be_read_is_a_letter_and_harms_no_worker(site: BrokerSite) -> None:
    pid, before = site.pid("worker"), DeadLetter.objects.filter(kind="undecodable").count()
    for name in RUBBISH:
        site.kind.push(UNUSABLE[name], "default")
    eventually(
        lambda: DeadLetter.objects.filter(kind="undecodable").count() == before + len(RUBBISH),
        describe=lambda: site.last_words("worker"),
    )
    result = lab_nothing.delay()
    eventually(lambda: has_ended(result))
    assert site.is_running("worker"), site.last_words("worker")
    assert site.pid("worker") == pid
    eventually(site.is_idle, describe=site.kind.size)


@pytest.mark.capability("depth")
def test_depth_and_age_are_those_of_the_jobs_that_wait(site: BrokerSite) -> None:
    site.kill9("worker")
    ids = lab_nothing.delay_many([{} for _ in range(7)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=State.SENT).count() == 7)
    [status] = [status for status in queues.statuses() if status.name == "default"]
    since = (timezone.now() - job_of(ids[0]).run_at).total_seconds()
    assert (status.waiting, status.running) == (7, 0)
    assert status.oldest == pytest.approx(since, abs=1)
    # Or more: what the killed worker had done and not yet acknowledged is back, to be dropped by the claim.
    eventually(lambda: site.kind.size() >= 7, describe=site.kind.size)
    site.start_worker()
    eventually(site.is_idle, describe=site.kind.size)


@pytest.mark.capability("pause")
def test_a_paused_queue_keeps_its_jobs_until_it_is_resumed(site: BrokerSite) -> None:
    queues.pause("default", reason="a test")
    try:
        result, other = lab_nothing.delay(), lab_nothing.apply_async(queue="high")
        eventually(lambda: has_ended(other))
        assert job_of(result).state == State.QUEUED
    finally:
        queues.resume("default")
    eventually(lambda: has_ended(result))


@pytest.mark.capability("cancel")
def test_a_running_job_stops_at_its_next_checkpoint(site: BrokerSite, book: Path) -> None:
    result = note_steps.delay(book=str(book), steps=200)
    eventually(lambda: "step" in book.read_text())
    ledger.cancel(job_of(result).pk)
    eventually(lambda: has_ended(result))
    assert job_of(result).state == State.CANCELLED


@pytest.mark.capability("control")
def test_celery_asks_its_workers_and_they_answer(site: BrokerSite) -> None:
    answer = site.celery("inspect", "ping", "--destination=worker@site", "--timeout=10")
    assert "worker@site" in answer.stdout, answer.stdout + answer.stderr
    assert answer.returncode == 0


@pytest.mark.capability("flower")
def test_flower_shows_what_a_worker_does(site: BrokerSite) -> None:
    port = any_port()
    site.start_flower(port)

    def tasks() -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/tasks", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def shown() -> bool:
        result = lab_nothing.delay()
        eventually(lambda: has_ended(result))
        return any(task["state"] == "SUCCESS" for task in tasks().values())

    eventually(shown, describe=lambda: site.last_words("flower"))


@pytest.mark.capability("groups")
def test_jobs_of_one_group_run_one_after_the_other_in_their_order(site: BrokerSite, book: Path) -> None:
    site.kill9("worker")
    site.start_worker(concurrency=1)
    ids = [
        site.send("acceptance.note_broker_only", {"book": str(book), "seconds": 0.05}, MessageGroupId="order-7")
        for _ in range(10)
    ]
    eventually(lambda: book.read_text().count("end") == 10, describe=book.read_text)
    assert book.read_text().split("\n")[:-1] == [f"{what} {job_id}" for job_id in ids for what in ("start", "end")]
