"""A rate's window in PostgreSQL, where there is no Redis.

Guarantee. Of those that ask at once each waits for the row, so no more than `amount` places are taken in any `seconds`.

Not guaranteed. A row holds a time for each place of its window: a limit of thousands a minute belongs in Redis. Outside
a transaction only: within one, everybody else would wait for its end.
"""

from django.db import connection

RECENT = "(SELECT taken FROM unnest(seen.taken_at) AS taken WHERE taken > clock_timestamp() - %s * interval '1 second')"

TAKE = f"""
    INSERT INTO jobs_ratewindow AS seen (key, taken_at) VALUES (%s, ARRAY[clock_timestamp()])
    ON CONFLICT (key) DO UPDATE SET taken_at = ARRAY{RECENT} || clock_timestamp()
    WHERE (SELECT count(*) FROM {RECENT} AS recent) < %s
    RETURNING key
"""

# The oldest place that still counts is the next to be free.
NEXT_FREE = f"""
    SELECT extract(epoch FROM min(recent.taken) + %s * interval '1 second' - clock_timestamp())::float
    FROM jobs_ratewindow AS seen CROSS JOIN LATERAL {RECENT} AS recent WHERE seen.key = %s
"""


def take(key: str, amount: int, seconds: int) -> float | None:
    """Take a place: None; or, if all are taken, in how many seconds one is free."""
    with connection.cursor() as cursor:
        cursor.execute(TAKE, [key, seconds, seconds, amount])
        if cursor.fetchone():
            return None
        cursor.execute(NEXT_FREE, [seconds, seconds, key])
        free_in: float | None = cursor.fetchone()[0]
    return free_in or 0.0
