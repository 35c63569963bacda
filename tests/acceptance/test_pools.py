"""Every kind of pool gives a job the same, with a worker that is killed and one that is stopped; and a pool that grows
and shrinks by itself loses nothing."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import chain
from celery.result import AsyncResult

from apps.jobs import ledger
from apps.jobs.models import DeadLetter, Job
from apps.local.children import is_alive
from tasks.lab import lab_add, lab_fail, lab_nothing, lab_sleep, lab_unique
from tests.acceptance.misbehaviour import DURABLE, note
from tests.acceptance.site import Site, eventually
from tests.acceptance.test_brokers_that_forget import cut_connections
from tests.acceptance.test_workers_that_die import has_ended, job_of, starts

LEASE = 1.5


@pytest.fixture
def stand_in(installation: Site, django_db_blocker: Any) -> Iterator[Site]:
    """Without the usual worker, which is back for the next test."""
    with django_db_blocker.unblock():
        if installation.is_running("worker"):
            installation.kill9("worker")
        installation.make_ready()
        yield installation
        if installation.is_running("worker"):
            installation.kill9("worker")


def start_pool(site: Site, pool: str) -> None:
    site.start_worker("worker", f"--pool={pool}", concurrency=3, JOBS_LEASE_SECONDS=str(LEASE))


def have_started(jobs: Iterable[AsyncResult], book: Path) -> bool:
    return all(starts(book)[job.id] for job in jobs)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_pool_gives_a_job_all_that_any_other_gives_it(stand_in: Site, book: Path, pool: str) -> None:
    site = stand_in
    start_pool(site, pool)
    long = note.delay(book=str(book), seconds=LEASE * 2)
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(30)])
    chained = chain(lab_add.s(1, 2), lab_add.s(3))()
    exhausted, bad = DURABLE["retries exhausted"].delay(), lab_fail.delay()
    first, refused = lab_unique.delay(key=pool), lab_unique.delay(key=pool)
    eventually(lambda: not Job.objects.filter(state__in=Job.LIVE).exists(), describe=lambda: site.last_words("worker"))
    assert (job_of(long).attempts, job_of(long).crashes) == (1, 0), "its lease ran out"
    assert sorted(Job.objects.filter(pk__in=ids).values_list("result", flat=True)) == list(range(1, 31))
    assert (job_of(chained).result, job_of(exhausted).retries, refused.id) == (6, 2, first.id)
    kinds = {letter.job_id: letter.kind for letter in DeadLetter.objects.filter(job_id__in=[exhausted.id, bad.id])}
    assert sorted(kinds.values()) == ["exhausted", "permanent"]

    killed = note.delay(book=str(book), seconds=1)
    eventually(lambda: starts(book)[killed.id])
    site.kill9("worker")
    start_pool(site, pool)
    eventually(lambda: has_ended(killed), describe=lambda: site.last_words("worker"))
    assert (job_of(killed).attempts, job_of(killed).crashes) == (2, 1)

    # A solo pool runs one at a time, so each has a stop of its own.
    for at_once in ([0.3], [60.0]) if pool == "solo" else ([0.3, 60.0],):
        if not site.is_running("worker"):
            start_pool(site, pool)
        running = {note.delay(book=str(book), seconds=seconds): seconds for seconds in at_once}
        eventually(partial(have_started, running, book))
        site.terminate("worker")
        for result, seconds in running.items():
            if seconds < 1:
                assert (has_ended(result), job_of(result).attempts) == (True, 1)
            else:
                assert job_of(result).state in (Job.State.QUEUED, Job.State.SENT)
                assert (job_of(result).attempts, job_of(result).errors) == (0, [])
                ledger.cancel(job_of(result).pk)


def test_a_child_that_is_replaced_under_load_loses_nothing_and_counts_no_crash(stand_in: Site) -> None:
    """`max_tasks_per_child`, against a task that leaks memory."""
    site = stand_in
    site.start_worker("worker", "--max-tasks-per-child=5", concurrency=2)
    first = {child.pid for child in site.children("worker")}
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(40)])
    jobs = Job.objects.filter(pk__in=ids)
    eventually(
        lambda: jobs.filter(state=Job.State.SUCCEEDED).count() == len(ids),
        describe=lambda: (list(jobs.values_list("state", "attempts")), site.last_words("worker")),
    )
    assert not jobs.exclude(attempts=1, crashes=0, errors=[]).exists()
    eventually(lambda: not first & {child.pid for child in site.children("worker")})


def processes(site: Site) -> int:
    """Of the pool, and now and then one more, which waits to be taken notice of."""
    return sum(map(is_alive, site.children("worker")))


def test_a_pool_grows_under_load_and_shrinks_after_it_and_loses_nothing(stand_in: Site) -> None:
    """Celery's autoscaler grants an idle process 30 s; here, one."""
    site = stand_in
    site.start_worker("worker", "--autoscale=10,2", AUTOSCALE_KEEPALIVE="1")
    assert processes(site) <= 3
    ids = lab_sleep.delay_many([{"seconds": 0.4, "steps": 1} for _ in range(120)])
    jobs = Job.objects.filter(pk__in=ids)
    eventually(lambda: jobs.filter(state=Job.State.RUNNING).count() >= 9, describe=lambda: site.last_words("worker"))
    eventually(lambda: jobs.filter(state=Job.State.SUCCEEDED).count() == len(ids))
    eventually(lambda: processes(site) <= 3, describe=lambda: site.last_words("worker"))
    assert not jobs.exclude(attempts=1).exists()
    quick = lab_nothing.delay()
    eventually(lambda: has_ended(quick))


def test_what_a_solo_worker_claimed_behind_a_long_job_is_run_by_another(stand_in: Site, book: Path) -> None:
    """Its main loop, which hands such jobs back elsewhere, is what runs the long one."""
    site = stand_in
    start_pool(site, "solo")
    warm = Job.objects.filter(pk__in=lab_nothing.delay_many([{}] * 100))
    eventually(lambda: warm.filter(state=Job.State.SUCCEEDED).count() == 100)  # short ones, so it fetches ahead
    main = psutil.Process(site.pid("worker"))
    main.suspend()
    long = note.delay(book=str(book), seconds=600)
    eventually(lambda: has_ended(long, Job.State.SENT))
    waiting = Job.objects.filter(pk__in=lab_nothing.delay_many([{}] * 20))
    eventually(lambda: waiting.filter(state=Job.State.SENT).count() == 20)
    main.resume()
    eventually(lambda: starts(book)[long.id], describe=lambda: site.last_words("worker"))
    site.start_worker("second", concurrency=1)
    eventually(
        lambda: waiting.filter(state=Job.State.SUCCEEDED).count() == 20,
        describe=lambda: list(waiting.values_list("state", "token")),
    )
    assert set(waiting.values_list("token", "attempts", "crashes")) == {(2, 1, 0)}, "none was claimed behind it"
    assert (job_of(long).state, job_of(long).attempts) == (Job.State.RUNNING, 1)
    ledger.cancel(job_of(long).pk)


def test_a_job_that_a_child_has_not_begun_when_its_worker_is_stopped_gets_no_longer_than_the_grace(
    stand_in: Site, book: Path
) -> None:
    site = stand_in
    site.start_worker("worker", concurrency=1, JOBS_LEASE_SECONDS=str(LEASE), JOBS_SHUTDOWN_GRACE_SECONDS="3")
    first = note.delay(book=str(book), seconds=0)
    eventually(lambda: has_ended(first))  # a child that has not said that it is up is given nothing
    [child] = site.children("worker")
    child.suspend()
    long = note.delay(book=str(book), seconds=600)
    eventually(lambda: has_ended(long, Job.State.RUNNING))
    claimed_at = site.worker_row().heartbeat_at
    eventually(lambda: site.worker_row().heartbeat_at > claimed_at)  # by now it lies in the child's pipe
    main = psutil.Process(site.pid("worker"))
    main.terminate()
    eventually(lambda: b"Warm shutdown" in site.log("worker").read_bytes())
    child.resume()
    eventually(lambda: starts(book)[long.id])
    eventually(lambda: not site.is_running("worker"), describe=lambda: site.last_words("worker"))
    assert (job_of(long).state in (Job.State.QUEUED, Job.State.SENT), job_of(long).attempts) == (True, 0)
    ledger.cancel(job_of(long).pk)


def test_a_pool_grows_after_its_worker_was_cut_off_as_before(stand_in: Site, book: Path) -> None:
    """By what it has fetched, for which it may not count only the processes that it has."""
    site = stand_in
    site.start_worker("worker", "--autoscale=3,1")
    cut_connections(site)
    eventually(lambda: site.log("worker").read_text().count("Connected to") == 2)
    jobs = [note.delay(book=str(book), seconds=5) for _ in range(3)]
    eventually(lambda: all(map(has_ended, jobs)), describe=lambda: site.last_words("worker"))
    assert [line.split()[0] for line in book.read_text().splitlines()] == ["start"] * 3 + ["end"] * 3
