"""Prepared statements for the ledger's hot path.

Django's own cursor sends each statement as text, to be parsed and planned anew, which is most of what a small INSERT
costs. The few statements that run for every job are prepared once for each connection instead. Behind a connection
pooler in transaction mode that does not know prepared statements, set `JOBS_PREPARE_STATEMENTS=0`.
"""

import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections


def run(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Execute on Django's connection, in its transaction; returns the rows. Raises Django's own database errors."""
    database = connections[DEFAULT_DB_ALIAS]  # once: each look at Django's `connection` goes through two proxies
    database.ensure_connection()
    database.validate_no_broken_transaction()
    # Django sets None here, which forbids to prepare even what asks for it. This means: nothing else, however often.
    database.connection.prepare_threshold = sys.maxsize
    with database.wrap_database_errors, psycopg.Cursor(database.connection) as cursor:
        cursor.execute(statement, parameters, prepare=settings.JOBS_PREPARE_STATEMENTS)
        return cursor.fetchall()
