"""Workers killed, frozen, stopped and outdated: every job runs to its end, and once where that was promised."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from tasks.lab import lab_add, lab_atomic, lab_crash_once, lab_nothing
from tests.acceptance.misbehaviour import hold_its_row, note, note_broker_only
from tests.acceptance.site import Site, eventually
from tests.jobs.malformed import envelope


def job_of(result: Any) -> Job:
    return Job.objects.get(pk=getattr(result, "id", result))


def has_ended(result: Any, state: str = Job.State.SUCCEEDED) -> bool:
    return job_of(result).state == state


def starts(book: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in book.read_text().splitlines() if line.startswith("start"))


def test_a_worker_that_is_killed_with_all_its_children_leaves_its_jobs_to_the_next(site: Site, book: Path) -> None:
    results = [note.delay(book=str(book), seconds=1.5) for _ in range(4)]
    eventually(lambda: len(starts(book)) == 4)
    site.kill9("worker")
    site.start_worker()
    eventually(lambda: all(map(has_ended, results)), describe=lambda: site.last_words("worker"))
    for result in results:
        assert (job_of(result).attempts, job_of(result).crashes) == (2, 1)


def test_a_child_that_is_killed_costs_one_attempt_and_no_lease_time(site: Site) -> None:
    result = lab_crash_once.delay()
    eventually(lambda: has_ended(result))
    job = job_of(result)
    assert (job.attempts, job.crashes, job.errors[0]["kind"]) == (2, 1, "crashed")
    assert site.is_running("worker")


def test_a_job_that_holds_its_own_row_when_its_time_is_over_does_not_silence_its_worker(site: Site) -> None:
    late = hold_its_row.delay()
    eventually(lambda: has_ended(late, Job.State.DEAD), describe=lambda: site.last_words("worker"))
    assert DeadLetter.objects.get(job_id=late.id).kind == "time_limit"
    next_one = lab_nothing.delay()
    eventually(lambda: has_ended(next_one))


def test_what_an_atomic_task_did_before_it_was_killed_never_happened(site: Site) -> None:
    result = lab_atomic.delay(crash=True)
    eventually(lambda: has_ended(result))
    assert job_of(result).attempts == 2
    assert Job.objects.filter(parent_id=result.id).count() == 1


def test_a_frozen_worker_that_wakes_up_cannot_overwrite_the_end(site: Site, book: Path) -> None:
    site.start_worker("zombie", "--queues=low", concurrency=1)
    result = note.apply_async(kwargs={"book": str(book), "seconds": 1}, queue="low")
    # Either worker may have it; freeze the one that has.
    eventually(lambda: starts(book))
    holder = "zombie" if job_of(result).worker_id == site.worker_row("zombie").pk else "worker"
    frozen = [*site.children(holder), site.running[holder]]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    eventually(lambda: has_ended(result), describe=lambda: job_of(result).state)
    ended = Job.objects.filter(pk=result.id).values().get()
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    eventually(lambda: book.read_text().count("end") == 2)
    eventually(lambda: not site.is_running(holder) or site.worker_row(holder).busy == 0)
    assert Job.objects.filter(pk=result.id).values().get() == ended
    assert (ended["attempts"], ended["crashes"]) == (2, 1)


def test_a_deploy_lets_a_short_job_finish(site: Site, book: Path) -> None:
    result = note.delay(book=str(book), seconds=0.5)
    eventually(lambda: starts(book))
    assert site.terminate("worker") == 0
    assert has_ended(result)
    assert job_of(result).attempts == 1


def test_a_deploy_hands_back_a_long_job_and_counts_nothing(site: Site, book: Path) -> None:
    result = note.delay(book=str(book), seconds=2.5)
    eventually(lambda: starts(book))
    site.terminate("worker")
    job = job_of(result)
    assert job.state in (Job.State.QUEUED, Job.State.SENT), site.last_words("worker")
    assert (job.attempts, job.crashes, job.errors) == (0, 0, [])
    site.start_worker()
    eventually(lambda: has_ended(result))
    assert job_of(result).attempts == 1


def test_a_deploy_gives_a_long_broker_only_job_back_to_the_broker(site: Site, book: Path) -> None:
    result = site.publish(note_broker_only, kwargs={"book": str(book), "seconds": 2.5})
    eventually(lambda: starts(book))
    site.terminate("worker")
    site.start_worker()
    eventually(lambda: "end" in book.read_text())
    assert starts(book)[result.id] == 2
    assert not DeadLetter.objects.filter(job_id=result.id).exists()


def test_jobs_that_a_stopping_worker_had_only_fetched_run_elsewhere(site: Site) -> None:
    """Before 30 s are over, after which a platform kills: then they would wait for their leases, and count a crash."""
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(80)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).exists())
    assert site.terminate("worker", timeout=25) == 0
    site.start_worker()
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() == 80)
    assert not Job.objects.filter(pk__in=ids, crashes__gt=0).exists()


def test_a_job_of_newer_code_waits_for_a_newer_worker(site: Site, book: Path) -> None:
    site.kill9("worker")
    site.start_worker("old", include=False, concurrency=1, JOBS_UNKNOWN_TASK_GRACE_SECONDS="60")
    result = note.delay(book=str(book))
    eventually(lambda: job_of(result).errors, describe=lambda: site.last_words("old"))
    assert job_of(result).errors[0]["kind"] == "unknown_task"
    site.kill9("old")
    site.start_worker()
    eventually(lambda: has_ended(result))
    assert (job_of(result).attempts, len(starts(book))) == (1, 1)


def test_a_job_that_no_worker_ever_knows_ends_as_a_letter(site: Site) -> None:
    [recorded] = ledger.record([NewJob(task="tasks.nobody_knows_me", args=[], kwargs={}, queue="default")])
    eventually(lambda: DeadLetter.objects.filter(job_id=recorded.id, kind="unknown_task").exists())


def message_of(job_id: Any, task: str, kwargs: dict[str, Any]) -> bytes:
    headers = {"task": task, "id": str(job_id), "ledger": True}
    return json.dumps(envelope(headers=headers, body=[[], kwargs, {}])).encode()


def test_one_message_delivered_ten_times_at_once_runs_once(site: Site, book: Path) -> None:
    kwargs = {"book": str(book), "seconds": 0.5}
    [recorded] = ledger.record([NewJob(task="acceptance.note", args=[], kwargs=kwargs, queue="default", delay=3600)])
    for _ in range(10):
        site.push(message_of(recorded.id, "acceptance.note", kwargs))
    ledger.hurry([recorded.id])
    eventually(lambda: has_ended(recorded.id))
    eventually(site.is_idle)
    assert starts(book) == {str(recorded.id): 1}


def test_a_late_duplicate_of_an_ended_job_does_nothing(site: Site, book: Path) -> None:
    result = note.delay(book=str(book))
    eventually(lambda: has_ended(result))
    before = Job.objects.filter(pk=result.id).values().get()
    site.push(message_of(result.id, "acceptance.note", {"book": str(book)}))
    eventually(site.is_idle)
    assert Job.objects.filter(pk=result.id).values().get() == before
    assert len(starts(book)) == 1


def test_two_relays_send_each_job_once(site: Site, book: Path) -> None:
    site.start_relay("second relay")
    ids = note.delay_many([{"book": str(book)} for _ in range(100)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() == 100)
    assert set(starts(book).values()) == {1}
    assert not Job.objects.filter(pk__in=ids, attempts__gt=1).exists()


def test_a_relay_that_is_killed_under_load_loses_nothing(site: Site, book: Path) -> None:
    ids = note.delay_many([{"book": str(book)} for _ in range(100)])
    site.kill9("relay")
    site.start_relay()
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() == 100)
    assert set(starts(book).values()) == {1}


def test_a_relay_ends_at_sigterm_and_in_good_order(site: Site) -> None:
    eventually(lambda: "Relay started" in site.last_words("relay"))
    assert site.terminate("relay") == 0


def test_a_pool_of_threads_runs_and_renews_as_well(site: Site, book: Path) -> None:
    site.kill9("worker")
    site.start_worker("other", "--pool=threads", concurrency=4, JOBS_LEASE_SECONDS="1.5")
    results = [note.delay(book=str(book), seconds=2.5) for _ in range(3)]
    eventually(lambda: all(map(has_ended, results)), describe=lambda: site.last_words("other"))
    assert set(starts(book).values()) == {1}, "a lease ran out"
    quick = lab_nothing.delay()
    eventually(lambda: has_ended(quick))
