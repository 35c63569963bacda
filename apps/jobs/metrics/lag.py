"""The relay's lag: is there a relay, and does it keep up?"""

from django.db import connection

from apps.jobs.health.pulling import relayed_queues
from apps.jobs.ledger import PAUSED, WINDOW

# Due, in a queue that is open; one whose window is full waits for its workers, not for the relay.
RELAY_LAG = f"""
    SELECT extract(epoch FROM statement_timestamp() - min(first.run_at))::float
    FROM unnest(%s::text[]) AS open (name)
    CROSS JOIN LATERAL (
        SELECT run_at FROM jobs_job
        WHERE state = 'queued' AND queue = open.name AND run_at <= statement_timestamp() ORDER BY run_at LIMIT 1
    ) AS first
    WHERE name NOT IN ({PAUSED}) AND (SELECT count(*) FROM (
        SELECT 1 FROM jobs_job WHERE state = 'sent' AND queue = open.name LIMIT {WINDOW}) AS sent) < {WINDOW}
"""


def relay_lag() -> float:
    """Since when (seconds) a job has been due that no relay has handed on; 0 if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(RELAY_LAG, [relayed_queues()])
        lag: float | None = cursor.fetchone()[0]
    return lag or 0.0
