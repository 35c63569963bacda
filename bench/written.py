"""The one write of a job, for systems that bring no connection of their own: it is kept, as their users would."""

import os
from functools import cache
from typing import Any

import psycopg

TABLE = "CREATE TABLE IF NOT EXISTS bench_written (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
WRITE = "INSERT INTO bench_written DEFAULT VALUES"


@cache
def _connection() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["BENCH_PEER_DATABASE"], autocommit=True)


def write() -> None:
    _connection().execute(WRITE)
