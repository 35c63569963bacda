"""Valkey wiped, restarted, killed, frozen: no job is lost, and nobody who asks for one notices."""

import time
from pathlib import Path
from typing import Any

import pytest

from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import Job
from config.broker import VISIBILITY_SECONDS
from tasks.lab import lab_add, lab_nothing
from tests.acceptance.misbehaviour import note
from tests.acceptance.site import Site, eventually
from tests.acceptance.test_workers_that_die import has_ended, job_of, message_of, starts

SUCCEEDED = Job.State.SUCCEEDED
# A web request may not wait for a broker; a durable `.delay()` is one statement of a few milliseconds.
NOT_NOTICED = 1.0


def all_have_run(ids: Any) -> bool:
    return not Job.objects.filter(pk__in=ids).exclude(state=SUCCEEDED).exists()


def seconds_to_ask() -> float:
    started = time.monotonic()
    lab_nothing.delay()
    return time.monotonic() - started


def test_a_wiped_broker_loses_nothing(site: Site, book: Path) -> None:
    ids = note.delay_many([{"book": str(book), "seconds": 0.1} for _ in range(120)])
    # Which stays true: how many are on their way at a moment may be over before anybody looks.
    eventually(lambda: not Job.objects.filter(pk__in=ids, state=Job.State.QUEUED).exists())
    with site.valkey.client() as client:
        client.flushall()
    eventually(lambda: all_have_run(ids), describe=lambda: site.last_words("relay"))
    starts = [line for line in book.read_text().splitlines() if line.startswith("start")]
    assert len(starts) == len(set(starts)) == 120


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_broker_that_comes_back_finds_its_workers(site: Site, how: str) -> None:
    pid = site.pid("worker")
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(200)])
    eventually(lambda: Job.objects.filter(pk__in=ids, state=SUCCEEDED).exists())
    site.valkey.restart() if how == "restart" else site.valkey.kill9()
    if not site.valkey.is_running:
        site.valkey.start()
    eventually(lambda: all_have_run(ids), describe=lambda: site.last_words("worker"))
    assert site.is_running("worker"), site.last_words("worker")
    assert site.pid("worker") == pid


def test_a_job_that_runs_through_a_restart_of_the_broker_runs_once(site: Site, book: Path) -> None:
    """kombu gives every unacknowledged message back as the connection breaks, while the children still run."""
    result = note.delay(book=str(book), seconds=4)
    eventually(lambda: "start" in book.read_text())
    site.valkey.restart()
    marker = lab_nothing.delay()
    eventually(lambda: all_have_run([result.id, marker.id]))
    assert book.read_text().count("start") == 1
    assert site.is_running("worker")


def test_a_job_that_ended_while_the_broker_was_away_is_not_out_of_time(site: Site, book: Path) -> None:
    """Nobody listens to the children meanwhile, and the time limits strike all the same."""
    done = note.apply_async(kwargs={"book": str(book), "seconds": 1}, time_limit=5)
    late = note.apply_async(kwargs={"book": str(book), "seconds": 60}, time_limit=6)
    eventually(lambda: starts(book).keys() == {done.id, late.id})
    site.valkey.stop()
    eventually(lambda: has_ended(late, Job.State.DEAD), describe=lambda: site.last_words("worker"))
    assert f"end {done.id}" in book.read_text()
    site.valkey.start()
    marker = lab_nothing.delay()
    eventually(lambda: all_have_run([done.id, marker.id]), timeout=30, describe=lambda: site.last_words("worker"))
    assert starts(book)[done.id] == 1
    assert site.is_running("worker")


def test_a_worker_whose_connection_is_cut_again_and_again_runs_each_of_its_jobs_once(site: Site, book: Path) -> None:
    """Whatever it has just claimed, given to a child or heard from one. The long job outlasts its lease.

    Between a fetch and its answer a cut leaves the messages to the visibility time-out.
    """
    patience = VISIBILITY_SECONDS + 30
    long = note.delay(book=str(book), seconds=6)
    ids = note.delay_many([{"book": str(book), "seconds": 0.03} for _ in range(600)])
    ended = Job.objects.filter(pk__in=ids, state=SUCCEEDED)
    eventually(lambda: f"start {long.id}" in book.read_text())
    for cut in range(1, 7):
        eventually(lambda cut=cut: ended.count() > 80 * cut, patience, describe=lambda: site.last_words("worker"))  # type: ignore[misc]
        cut_connections(site)
    eventually(lambda: all_have_run([*ids, long.id]), patience, describe=lambda: site.last_words("worker"))
    twice = {job_id: count for job_id, count in starts(book).items() if count > 1}
    lost = list(Job.objects.filter(pk__in=[*ids, long.id]).exclude(attempts=1, crashes=0).values("id", "errors"))
    assert (twice, lost) == ({}, [])


def test_a_worker_that_loses_broker_and_ledger_at_once_runs_what_it_had_fetched_once(site: Site, book: Path) -> None:
    """It could not claim it any more, so the message is the broker's again, at once and not after the time-out.

    The job outlasts its lease, and nobody is patient any more after the ledger's start.
    """
    site.kill9("relay")
    kwargs = {"book": str(book), "seconds": 7}
    [recorded] = ledger.record([NewJob(task="acceptance.note", args=[], kwargs=kwargs, queue="default")])
    site.postgres.stop()
    site.push(message_of(recorded.id, "acceptance.note", kwargs))
    eventually(lambda: "1 jobs wait for it" in site.log("worker").read_text())
    connected = site.log("worker").read_text().count("Connected to")
    cut_connections(site)
    eventually(lambda: site.log("worker").read_text().count("Connected to") > connected)
    site.postgres.start()
    site.start_relay()
    eventually(lambda: all_have_run([recorded.id]), timeout=30, describe=lambda: site.last_words("worker"))
    assert starts(book) == {str(recorded.id): 1}


def test_a_worker_whose_processes_are_busy_since_before_a_cut_leaves_other_jobs_to_others(
    site: Site, book: Path
) -> None:
    site.kill9("worker")
    site.start_worker("busy", concurrency=1)
    long = note.delay(book=str(book), seconds=60)
    eventually(lambda: starts(book))
    cut_connections(site)
    short = note.delay(book=str(book))
    eventually(lambda: Job.objects.filter(pk=short.id, token__gt=0).exists(), describe=lambda: site.last_words("busy"))
    site.start_worker()
    eventually(lambda: all_have_run([short.id]), describe=lambda: site.last_words("busy"))
    assert f"end {long.id}" not in book.read_text()
    ledger.cancel(job_of(long).pk)
    eventually(lambda: has_ended(long, Job.State.CANCELLED), describe=lambda: site.last_words("busy"))
    assert starts(book)[long.id] == 1


def cut_connections(site: Site) -> None:
    """As a proxy in between does; the broker itself forgets nothing."""
    with site.valkey.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def test_while_the_broker_is_away_jobs_are_accepted_at_once_and_run_later(site: Site) -> None:
    site.valkey.stop()
    assert seconds_to_ask() < NOT_NOTICED
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(50)])
    eventually(lambda: "The broker is away" in site.log("relay").read_text())
    assert set(Job.objects.filter(pk__in=ids).values_list("state", flat=True)) == {Job.State.QUEUED}
    site.valkey.start()
    eventually(lambda: all_have_run(ids), describe=lambda: site.last_words("relay"))


def test_while_the_broker_is_frozen_jobs_are_accepted_at_once_and_run_later(site: Site) -> None:
    eventually(site.is_idle)
    site.valkey.suspend()
    try:
        assert seconds_to_ask() < NOT_NOTICED
        ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(50)])
        eventually(lambda: "The broker is away" in site.log("relay").read_text())
    finally:
        site.valkey.resume()
    eventually(lambda: all_have_run(ids), describe=lambda: site.last_words("relay"))


def test_a_broker_whose_memory_is_full_takes_the_jobs_when_there_is_room(site: Site) -> None:
    eventually(site.is_idle)
    with site.valkey.client() as client:
        client.config_set("maxmemory", "1")
        try:
            ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(50)])
            eventually(lambda: "away" in site.last_words("relay"), describe=lambda: site.last_words("relay"))
            assert not Job.objects.filter(pk__in=ids, state=SUCCEEDED).exists()
        finally:
            client.config_set("maxmemory", "256mb")
    eventually(lambda: all_have_run(ids), describe=lambda: site.last_words("worker"))
