"""Whether a ledger that keeps a million ended jobs, with a hundred thousand waiting, is as quick as an empty one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis
from django.conf import settings
from django.db import connection, transaction

from bench import console, stamps, tasks
from bench.ours import rates
from bench.rounds import Sizes
from bench.sides import Side, forget_everything, working

# What the full ledger must keep of the empty one's rates.
LEAST = 0.9
# The queue that may be so deep.
QUEUE = "low"
# Seconds. What is measured stands before all that waits.
IN_FRONT = -3600.0

FOR_LATER = """
    INSERT INTO jobs_job (id, task, args, kwargs, options, queue, run_at)
    SELECT uuidv7(), 'bench.nothing', '[]', '{}', '{}', 'low', now() + interval '1 day'
    FROM generate_series(1, %s)
"""
NOW_DUE = "UPDATE jobs_job SET run_at = now() WHERE queue = 'low' AND state = 'queued'"
# Of the round before: what was asked for, and what the workers that were killed had in hand.
FORGET = "DELETE FROM jobs_job WHERE created_at >= %s"
UNSEND = "UPDATE jobs_job SET state = 'queued', lease_until = NULL WHERE state IN ('sent', 'running')"


@dataclass(frozen=True)
class Rates:
    """Jobs a second: asked for one by one, asked for together, and from the ledger to their end."""

    one: float
    many: float
    drain: float


def measure(side: Side, sizes: Sizes, logs: Path) -> dict[str, list[Rates]]:
    """The empty ledger's rounds stand before and after the others', so that neither has the quieter machine."""

    def rounds() -> list[Rates]:
        return [one_round(side, sizes, logs) for _ in range(sizes.growth_rounds)]

    forget_everything()
    empty = rounds()
    console.fill(sizes.ended_jobs)
    execute(FOR_LATER, sizes.waiting_jobs)
    execute("VACUUM ANALYZE jobs_job")
    later = rounds()
    execute(NOW_DUE)
    execute("VACUUM ANALYZE jobs_job")
    behind = rounds()
    forget_everything()
    empty += rounds()
    return {"empty": empty, "for later": later, "in a backlog": behind}


def one_round(side: Side, sizes: Sizes, logs: Path) -> Rates:
    began_at = execute("SELECT clock_timestamp()")
    one, many = rates(tasks.nothing, sizes.enqueued, sizes.enqueued_together, queue=QUEUE)
    with transaction.atomic():
        for task, jobs in ((tasks.stamp, 1), (tasks.nothing, sizes.drained), (tasks.stamp, 1)):
            task.delay_many([{}] * jobs, queue=QUEUE, countdown=IN_FRONT)
    with working(side, logs):
        began, ended = stamps.wait_for_stamp(), stamps.wait_for_stamp()
    execute(FORGET, began_at)
    execute(UNSEND)
    with redis.Redis.from_url(settings.REDIS_URL) as broker:
        broker.flushdb()
    return Rates(one, many, sizes.drained / (ended - began))


def execute(statement: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()[0] if cursor.description else None


def kept(found: dict[str, list[Rates]]) -> dict[str, tuple[float, float, float]]:
    """Of the empty ledger's rates, by state."""
    empty = medians(found["empty"])
    return {
        name: tuple(full / least for full, least in zip(medians(rounds), empty, strict=True))  # type: ignore[misc]
        for name, rounds in found.items()
        if name != "empty"
    }


def medians(rounds: Sequence[Rates]) -> tuple[float, float, float]:
    return (
        median(each.one for each in rounds),
        median(each.many for each in rounds),
        median(each.drain for each in rounds),
    )
