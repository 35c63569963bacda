"""Connections are kept, and replaced when they have failed."""

from typing import Any

import pytest
from celery import current_app
from django.db import OperationalError, connection, transaction

from apps.jobs import connections
from apps.jobs.models import Job
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench


def backend_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def cut_the_connection() -> None:
    """As a restart of the server does: it is gone, and the client does not know yet."""
    import psycopg

    parameters = connection.get_connection_params()
    address = {name: parameters[name] for name in ("host", "port", "user", "password", "dbname")}
    with psycopg.connect(**address, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [backend_pid()])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("apps.jobs.connections.time.sleep", pauses.append)
    return pauses


@pytest.mark.django_db(transaction=True)
def test_a_connection_is_kept_between_jobs() -> None:
    before = backend_pid()
    for _ in range(3):
        lab_nothing.delay()
        Bench().run_due()
    assert backend_pid() == before


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_was_cut_does_not_cost_the_next_job() -> None:
    result = lab_nothing.delay()
    [message] = Bench().send()
    cut_the_connection()
    Bench().deliver(message)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempts) == (Job.State.SUCCEEDED, 1)


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_is_cut_while_the_body_runs_does_not_cost_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_nothing, "run", cut_the_connection)
    result = lab_nothing.delay()
    Bench().run_due()
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempts) == (Job.State.SUCCEEDED, 1)


@pytest.mark.django_db(transaction=True)
def test_a_server_that_is_the_primary_no_longer_is_left_for_the_one_that_is() -> None:
    """After a fail-over: it answers all questions, and refuses to write."""
    result = lab_nothing.delay()
    [message] = Bench().send()
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    Bench().deliver(message)
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempts) == (Job.State.SUCCEEDED, 1)


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_failed_is_replaced() -> None:
    cut_the_connection()
    with pytest.raises(OperationalError):
        backend_pid()
    connections.refresh()
    assert backend_pid()


def failing(times: int) -> Any:
    left = iter(range(times))

    def transition() -> str:
        if next(left, None) is not None:
            raise OperationalError("the database system is starting up")
        return "done"

    return transition


@pytest.mark.django_db(transaction=True)
def test_a_transition_waits_for_the_database(no_pauses: list[float]) -> None:
    assert connections.patiently(failing(6)) == "done"
    assert no_pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


@pytest.mark.django_db(transaction=True)
def test_a_transition_does_not_wait_for_ever() -> None:
    with pytest.raises(OperationalError):
        connections.patiently(failing(100), patience=0)


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_nothing_is_repeated(no_pauses: list[float]) -> None:
    """What came before it in the transaction is gone with the connection."""
    with pytest.raises(OperationalError), transaction.atomic():
        connections.patiently(failing(1))
    assert no_pauses == []


def test_celery_closes_no_connection_around_a_task() -> None:
    assert current_app.conf["CELERY_DB_REUSE_MAX"] > 1_000_000
