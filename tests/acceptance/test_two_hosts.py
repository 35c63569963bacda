"""Workers and relays on two hosts, of which one is cut off from PostgreSQL and from the broker."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.jobs.models import Job
from tests.acceptance.cable import Cable
from tests.acceptance.misbehaviour import note
from tests.acceptance.site import Site, eventually
from tests.acceptance.test_workers_that_die import has_ended, job_of, starts


@pytest.fixture
def cables(site: Site) -> Iterator[list[Cable]]:
    """To PostgreSQL and to the broker."""
    cables = [Cable(site.postgres.port), Cable(site.valkey.port)]
    yield cables
    for name in {"far worker", "far relay"} & site.running.keys():
        site.kill9(name)
    for cable in cables:
        cable.remove()


@pytest.fixture
def far_host(site: Site, cables: list[Cable]) -> list[Cable]:
    """A worker and a relay at the other end of the cables."""
    postgres, valkey = cables
    addresses = {
        "DATABASE_URL": postgres.through(site.postgres.url()),
        "REDIS_URL": valkey.through(site.valkey.url()),
        "CELERY_BROKER_URL": valkey.through(site.valkey.url()),
    }
    site.start_worker("far worker", concurrency=3, include=True, **addresses)
    site.start_relay("far relay", **addresses)
    eventually(lambda: "Relay started" in site.last_words("far relay"))
    return cables


def test_the_jobs_of_a_host_that_is_cut_off_are_rescued_and_end_once(
    site: Site, far_host: list[Cable], book: Path
) -> None:
    freeze(site)
    results = [note.delay(book=str(book), seconds=2) for _ in range(3)]
    eventually(lambda: len(starts(book)) == 3)
    for cable in far_host:
        cable.pull()
    waiting = [note.delay(book=str(book)) for _ in range(10)]
    thaw(site)
    everything = [*results, *waiting]
    eventually(lambda: all(map(has_ended, everything)), describe=lambda: site.last_words("worker"))
    near = site.worker_row().pk
    assert {job_of(result).worker_id for result in everything} == {near}
    assert {(job_of(result).attempts, job_of(result).crashes) for result in results} == {(2, 1)}
    assert {job_of(result).crashes for result in waiting} == {0}

    ended = list(Job.objects.order_by("pk").values())
    for cable in far_host:
        cable.plug_in()
    freeze(site)
    late = note.delay(book=str(book))
    eventually(lambda: has_ended(late), describe=lambda: site.last_words("far worker"))
    assert job_of(late).worker_id != near, "the host is back at work by itself"
    assert list(Job.objects.exclude(pk=late.id).order_by("pk").values()) == ended, "its late ends changed nothing"
    assert {starts(book)[result.id] for result in waiting} == {1}
    thaw(site)


def freeze(site: Site) -> None:
    """The near worker, so that the far one has all the work."""
    for process in [*site.children("worker"), site.running["worker"]]:
        process.send_signal(signal.SIGSTOP)


def thaw(site: Site) -> None:
    for process in [*site.children("worker"), site.running["worker"]]:
        process.send_signal(signal.SIGCONT)
