"""Prepared statements for the ledger's hot path.

Django's own cursor sends each statement as text, to be parsed and planned anew, which is most of what a small INSERT
costs. The few statements that run for every job are prepared once for each connection instead. Behind a connection
pooler in transaction mode that does not know prepared statements, set `JOBS_PREPARE_STATEMENTS=0`.

What psycopg's cursor does around a statement that is prepared already is a fourteenth of what asking for one job costs.
Outside a transaction, where `.delay()` is a round trip and nothing else, it is left out.
"""

import re
import sys
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus

Rows = list[tuple[Any, ...]]
Types = tuple[int, ...] | None
# The names of what each connection has prepared, by its text and the types of its parameters.
_prepared: WeakKeyDictionary[Any, dict[tuple[str, Types], bytes]] = WeakKeyDictionary()
# Never the same twice: one whose preparation was interrupted may be there after all.
_number = count()


def run(statement: str, parameters: Sequence[Any]) -> Rows:
    """Execute on Django's connection, in its transaction; returns the rows. Raises Django's own database errors."""
    database = connections[DEFAULT_DB_ALIAS]  # once: each look at Django's `connection` goes through two proxies
    database.ensure_connection()
    database.validate_no_broken_transaction()
    connection = database.connection
    prepare = settings.JOBS_PREPARE_STATEMENTS
    with database.wrap_database_errors:
        if prepare and connection.autocommit:
            return _run_prepared(connection, statement, parameters)
        # Django sets None, which forbids to prepare even what asks for it. This means: nothing else, however often.
        connection.prepare_threshold = sys.maxsize
        with psycopg.Cursor(connection) as cursor:
            return cursor.execute(statement, parameters, prepare=prepare).fetchall()


def _run_prepared(connection: Any, statement: str, parameters: Sequence[Any]) -> Rows:
    """As the cursor does it, without all that a cursor can do besides. Outside a transaction alone."""
    adapt = Transformer(connection)
    values = adapt.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
    with connection.lock:
        try:
            result = _ask(connection, statement, adapt, values)
        except psycopg.errors.InvalidSqlStatementName:
            # After a rollback psycopg lets the server forget all that is prepared. Nothing was executed.
            _prepared.pop(connection)
            result = _ask(connection, statement, adapt, values)
    adapt.set_pgresult(result)
    return adapt.load_rows(0, result.ntuples, tuple)


def _ask(connection: Any, statement: str, adapt: Any, values: Sequence[Any]) -> Any:
    names = _prepared.setdefault(connection, {})
    name = names.get((statement, adapt.types))
    if name is None:
        name = b"nightshift_%d" % next(_number)
        connection.pgconn.send_prepare(name, _numbered(statement), adapt.types)
        _result(connection, ExecStatus.COMMAND_OK)
        names[statement, adapt.types] = name
    connection.pgconn.send_query_prepared(name, values, adapt.formats)
    return _result(connection, ExecStatus.TUPLES_OK)


def _result(connection: Any, expected: ExecStatus) -> Any:
    result = connection.wait(generators.execute(connection.pgconn))[-1]
    if result.status != expected:
        raise psycopg.errors.error_from_result(result)
    return result


@cache
def _numbered(statement: str) -> bytes:
    """With PostgreSQL's own placeholders."""
    numbers = iter(range(1, statement.count("%s") + 1))
    return re.sub("%s", lambda _: f"${next(numbers)}", statement).encode()
