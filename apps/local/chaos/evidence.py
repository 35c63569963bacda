"""Gather what is there at the end of a run."""

from typing import Any

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
RUNS = "SELECT extract(epoch FROM run_at)::float AS at FROM jobs_job WHERE task = 'chaos.tick' ORDER BY run_at"
SCHEDULE = """
    SELECT total_run_count, extract(epoch FROM last_run_at)::float AS last_run
    FROM django_celery_beat_periodictask WHERE task = 'chaos.tick'
"""


def gather(world: World, windows: list[Window], silent_workers: list[str]) -> Evidence:
    ask = world.witness.rows
    return Evidence(
        journal=world.journal,
        jobs={row["id"]: row for row in ask(JOBS)},
        letters=ask(LETTERS),
        effects=ask("SELECT job_id::text, token FROM chaos_effect"),
        history=ask("SELECT job_id::text, was, became, token FROM chaos_history ORDER BY number"),
        orders=ask(ORDERS),
        charges=_charges(world),
        messages_left=world.in_broker(),
        ticks=_ticks(world),
        silent_workers=silent_workers,
        exits=world.fleet.exits,
        windows=windows,
    )


def _ticks(world: World) -> Ticks:
    [schedule] = world.witness.rows(SCHEDULE)
    return Ticks(
        runs=[row["at"] for row in world.witness.rows(RUNS)],
        noted=schedule["total_run_count"],
        phase=schedule["last_run"] or 0.0,
        seconds=TICK_SECONDS,
    )


def _charges(world: World) -> dict[str, int]:
    counted: dict[str, Any] = world.sandbox.counts()["charges"]
    return {order: int(charged["succeeded"]) for order, charged in counted.items()}
