"""PostgreSQL's clock: heartbeats, leases and due times are written by it, and no host's own has to agree with it."""

from datetime import datetime

from django.db import connection


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now
