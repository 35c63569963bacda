"""Gather what is there at the end of a run."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from math import inf
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from apps.local.chaos.audit import Evidence, Ticks, Window
from apps.local.chaos.world import TICK_SECONDS, World

JOBS = """
    SELECT id::text, task, kwargs, state, token, attempts, crashes, lease_until, result, errors FROM jobs_job
"""
LETTERS = """
    SELECT job_id::text, kind, concat_ws(' ', args::text, kwargs::text, task, message) AS text FROM jobs_deadletter
"""
# Those of the seed were charged before this shop had jobs.
ORDERS = """
    SELECT id, status, request_key, charge_job::text FROM orders_order WHERE request_key NOT LIKE 'seed-%'
"""
HISTORY = """
    SELECT job_id::text, was, became, token, extract(epoch FROM at)::float AS at FROM chaos_history ORDER BY number
"""
RUNS = "SELECT id::text FROM jobs_job WHERE task = 'chaos.tick'"
SCHEDULE = """
    SELECT name, total_run_count, last_run_at, coalesce(extract(epoch FROM last_run_at - date_changed), 0)::float AS age
    FROM django_celery_beat_periodictask WHERE task = 'chaos.tick'
"""


def gather(world: World, windows: list[Window], silent_workers: list[str]) -> Evidence:
    ask = world.witness.rows
    return Evidence(
        journal=world.journal,
        jobs={row["id"]: row for row in ask(JOBS)},
        letters=ask(LETTERS),
        effects=ask("SELECT job_id::text, token FROM chaos_effect"),
        traces={row["job_id"] for row in ask("SELECT DISTINCT job_id::text FROM chaos_trace")},
        history=ask(HISTORY),
        orders=ask(ORDERS),
        charges=_charges(world),
        messages_left=world.messages(),
        ticks=_ticks(world, max(window.ended for window in windows)),
        silent_workers=silent_workers,
        exits=world.fleet.exits,
        windows=windows,
    )


def _ticks(world: World, ended: float) -> Ticks:
    [schedule] = world.witness.rows(SCHEDULE)
    runs = [row["id"] for row in world.witness.rows(RUNS)]
    silent = ended - schedule["last_run_at"].timestamp() if schedule["last_run_at"] else inf
    return Ticks(runs, frozenset(_possible_ids(schedule)), schedule["total_run_count"], silent)


def _possible_ids(schedule: dict[str, Any]) -> Iterator[str]:
    """The id of a tick's job is made of the schedule's name and the tick, so a second job of one tick has no id."""
    if schedule["last_run_at"]:
        for number in range(int(schedule["age"] / TICK_SECONDS) + 2):
            due = schedule["last_run_at"].astimezone(UTC) - number * timedelta(seconds=TICK_SECONDS)
            yield str(uuid5(NAMESPACE_URL, f"nightshift:schedule:{schedule['name']}:{due.isoformat()}"))


def _charges(world: World) -> dict[str, int]:
    counted: dict[str, Any] = world.sandbox.counts()["charges"]
    return {order: int(charged["succeeded"]) for order, charged in counted.items()}
