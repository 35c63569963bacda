"""What a person does to jobs that a real worker has: cancel, pause, resume; and that urgent jobs need nobody."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID

from celery.result import AsyncResult
from django.utils import timezone

from apps.jobs import ledger, queues
from apps.jobs.models import Job
from tasks.lab import lab_add, lab_nothing, lab_sleep
from tests.acceptance.misbehaviour import note, note_steps
from tests.acceptance.site import Site, eventually


def job_of(result: AsyncResult) -> Job:
    return Job.objects.get(pk=result.id)


def test_a_cancelled_job_that_waits_never_runs(site: Site, book: Path) -> None:
    result = note.apply_async(kwargs={"book": str(book)}, countdown=3600)
    assert ledger.cancel(UUID(result.id)) == Job.State.CANCELLED
    assert not ledger.hurry([UUID(result.id)])
    marker = lab_nothing.delay()
    eventually(lambda: job_of(marker).state == Job.State.SUCCEEDED)
    assert book.read_text() == ""


def test_a_cancelled_job_that_runs_stops_at_its_next_checkpoint(site: Site, book: Path) -> None:
    result = note_steps.delay(book=str(book), steps=600)
    eventually(lambda: "step 3" in book.read_text())
    assert ledger.cancel(UUID(result.id)) == Job.State.RUNNING
    eventually(lambda: job_of(result).state == Job.State.CANCELLED)
    assert "step 599" not in book.read_text()


def test_a_cancelled_job_without_checkpoints_is_ended_with_its_process(site: Site, book: Path) -> None:
    result = note.delay(book=str(book), seconds=300)
    eventually(lambda: "start" in book.read_text())
    ledger.cancel(UUID(result.id))
    eventually(lambda: job_of(result).state == Job.State.CANCELLED, describe=lambda: site.last_words("worker"))
    marker = lab_nothing.delay()
    eventually(lambda: job_of(marker).state == Job.State.SUCCEEDED)
    assert site.is_running("worker")


def test_a_paused_queue_starts_nothing_until_it_is_resumed(site: Site, book: Path) -> None:
    queues.pause("low", reason="the supplier is down")
    try:
        results = [note.apply_async(kwargs={"book": str(book)}, queue="low") for _ in range(3)]
        marker = lab_nothing.delay()
        eventually(lambda: job_of(marker).state == Job.State.SUCCEEDED)
        assert {job_of(result).state for result in results} == {Job.State.QUEUED}
        assert book.read_text() == ""
    finally:
        queues.resume("low")
    eventually(lambda: all(job_of(result).state == Job.State.SUCCEEDED for result in results))


def test_a_pause_also_holds_for_messages_that_are_already_in_the_broker(site: Site, book: Path) -> None:
    site.kill9("worker")
    ids = note.delay_many([{"book": str(book)} for _ in range(20)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SENT).count() == 20)
    queues.pause("default")
    try:
        site.start_worker()
        eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.QUEUED).count() == 20)
        assert book.read_text() == ""
    finally:
        queues.resume("default")
    eventually(lambda: Job.objects.filter(pk__in=ids, state=Job.State.SUCCEEDED).count() == 20)


def test_a_delayed_job_starts_when_it_is_due(site: Site) -> None:
    due = timezone.now() + timedelta(seconds=3)
    result = lab_add.apply_async((1, 2), eta=due)
    eventually(lambda: job_of(result).state == Job.State.SUCCEEDED)
    started = job_of(result).started_at
    assert started is not None
    assert timedelta(0) <= started - due < timedelta(seconds=10)


def test_urgent_jobs_do_not_wait_behind_a_flood_of_others(site: Site) -> None:
    """With the project's own division of labour: `low` and `high` have workers of their own."""
    site.kill9("worker")
    site.start_worker("low", "--queues=low", concurrency=2)
    site.start_worker("high", "--queues=high", concurrency=2)
    flood = lab_sleep.delay_many([{"seconds": 0.5, "steps": 1} for _ in range(2_000)], queue="low")
    eventually(lambda: Job.objects.filter(pk__in=flood, state=Job.State.RUNNING).exists())
    waits = sorted(wait_of_an_urgent_job() for _ in range(20))
    still_waiting = Job.objects.filter(pk__in=flood, state__in=Job.LIVE).count()
    forget(site, flood)
    assert waits[int(len(waits) * 0.95)] < 1.0
    assert still_waiting > 1_500


def wait_of_an_urgent_job() -> float:
    """Seconds from when it was due until it was started."""
    result = lab_nothing.apply_async(queue="high")
    eventually(lambda: job_of(result).state == Job.State.SUCCEEDED)
    job = job_of(result)
    assert job.started_at is not None
    return (job.started_at - job.run_at).total_seconds()


def forget(site: Site, ids: list[str]) -> None:
    """Nobody has to work off a flood that has done its part; to cancel one job after the other takes longer."""
    site.kill9("low")
    Job.objects.filter(pk__in=ids).delete()
    with site.valkey.client() as client:
        client.delete("low")
