"""What PostgreSQL itself saw: every transition of every job, and the rows that some jobs wrote.

A trigger cannot be fooled by the code under test, and stays when that code is sabotaged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

TABLES = """
    CREATE TABLE chaos_effect (job_id uuid NOT NULL, token int NOT NULL, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE chaos_trace (job_id uuid NOT NULL, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE chaos_history (
        number bigserial PRIMARY KEY, job_id uuid NOT NULL, was text, became text NOT NULL, token int NOT NULL,
        worker_id uuid, at timestamptz DEFAULT clock_timestamp());

    CREATE FUNCTION chaos_witness() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_history (job_id, was, became, token, worker_id)
        VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END, NEW.state, NEW.token, NEW.worker_id);
        RETURN NULL;
    END $$;

    CREATE TRIGGER chaos_recorded AFTER INSERT ON jobs_job FOR EACH ROW EXECUTE FUNCTION chaos_witness();
    CREATE TRIGGER chaos_moved AFTER UPDATE ON jobs_job FOR EACH ROW
        WHEN (OLD.state <> NEW.state OR OLD.token <> NEW.token) EXECUTE FUNCTION chaos_witness();
"""


class Witness:
    """Reads the database that a run has used, with connections that live for one question."""

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self) -> None:
        with self._connection() as connection:
            connection.execute(TABLES)

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self._connection() as connection:
            return connection.execute(query, values or None).fetchall()

    def value(self, query: str, *values: Any) -> Any:
        [row] = self.rows(query, *values)
        return next(iter(row.values()))

    def run(self, statement: str, *values: Any) -> int:
        with self._connection() as connection:
            return connection.execute(statement, values or None).rowcount

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        with psycopg.connect(self.url, row_factory=dict_row, connect_timeout=5) as connection:
            yield connection
