"""What waiting for the disk costs, which is the machine's price for a promise, and not the code's.

An accepted job must survive a power cut, so its commit waits until the disk has it. That takes 0.02 ms on a server's
solid state disk and several milliseconds in a small virtual machine; plain Celery's Redis waits for no disk at all.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from django.db import connection


@contextmanager
def not_waited_for() -> Iterator[None]:
    """This session's commits return before the disk has them."""
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        yield
        cursor.execute("RESET synchronous_commit")


def milliseconds_a_commit(commits: int = 50) -> float:
    """Of the smallest transaction there is, with the round trip to the server."""
    seconds = []
    with connection.cursor() as cursor:
        for _ in range(commits):
            began = time.perf_counter()
            cursor.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
            seconds.append(time.perf_counter() - began)
    return median(seconds) * 1000
