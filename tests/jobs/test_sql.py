"""The statements that run for every job are prepared, and find their row by its index."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from apps.jobs import sql
from apps.jobs.models import Job
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench, claim

pytestmark = pytest.mark.django_db(transaction=True)

# PostgreSQL plans a prepared statement anew for the first five times; then it may settle on one plan.
SETTLED = 8


@pytest.fixture(autouse=True)
def fresh_connection() -> Iterator[None]:
    """On which nothing is prepared yet."""
    connection.close()
    yield
    connection.close()


def prepared() -> dict[str, int]:
    """First words of each prepared statement, and how often its one plan was used."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement, generic_plans FROM pg_prepared_statements")
        return {" ".join(statement.split()[:6]): plans for statement, plans in cursor.fetchall()}


def run_jobs(bench: Bench, jobs: int = SETTLED) -> None:
    for _ in range(jobs):
        lab_nothing.delay()
        bench.run_due()


def test_recording_claiming_and_ending_settle_on_one_plan_each(bench: Bench) -> None:
    run_jobs(bench)
    plans = prepared()
    assert len(plans) == 3
    assert all(plans.values()), plans


def test_nothing_else_is_prepared_however_often_it_runs(bench: Bench) -> None:
    for _ in range(SETTLED):
        assert not Job.objects.exists()
    assert prepared() == {}


@pytest.mark.parametrize("statement", ["SELECT %s::int", "SELECT %s FROM nowhere"])
def test_an_error_is_one_of_djangos_and_the_connection_goes_on(statement: str) -> None:
    with pytest.raises(DatabaseError, match=r'"no number"|"nowhere"'):
        sql.run(statement, ["no number"])
    assert sql.run("SELECT %s::int, %s::uuid", [7, None]) == [(7, None)]


@pytest.mark.parametrize("outer", [nullcontext, transaction.atomic], ids=["whole", "to a savepoint"])
def test_a_rollback_costs_no_later_job_anything(outer: Callable[[], AbstractContextManager[Any]]) -> None:
    """psycopg lets the server forget every prepared statement with it."""
    lab_nothing.delay()
    with outer(), suppress(ZeroDivisionError), transaction.atomic():
        lab_nothing.delay()
        raise ZeroDivisionError
    for _ in range(3):
        lab_nothing.delay()
    assert Job.objects.count() == 4


def test_a_pooler_that_knows_no_prepared_statements_gets_none(bench: Bench, settings: Any) -> None:
    settings.JOBS_PREPARE_STATEMENTS = False
    run_jobs(bench)
    assert prepared() == {}


def test_a_claim_reads_one_row_of_a_table_that_has_grown_since_it_was_planned(bench: Bench) -> None:
    run_jobs(bench)
    ids = lab_nothing.delay_many([{}] * 2_000)
    bench.send()
    before = rows_read_in_sequence()
    assert claim(Job.objects.get(pk=ids[-1]).pk)
    assert rows_read_in_sequence() - before < 100


def rows_read_in_sequence() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs_job'")
        return int(cursor.fetchone()[0])
