"""What happens to relays, beats and the web process."""

from contextlib import suppress
from typing import Any

import psycopg

from apps.local.chaos.faults.strike import A_LOOK, RESTART_SECONDS, Course, Hit, fault, pick
from apps.local.chaos.world import BEATS, RELAYS, World, until


@fault("kill -9 of a relay", resource="relays", seconds=4)
def kill_relay(world: World, choice: float) -> Course:
    world.fleet.kill(pick(choice, RELAYS))
    yield 2.0
    return Hit(1, "relays")


@fault("kill -9 of both relays", resource="relays", seconds=5)
def kill_both_relays(world: World, _choice: float) -> Course:
    for relay in RELAYS:
        world.fleet.kill(relay)
    yield 3.0
    return Hit(2, "relays")


@fault("kill -9 of a beat", resource="beats", seconds=8)
def kill_beat(world: World, choice: float) -> Course:
    world.fleet.kill(pick(choice, BEATS))
    yield 5.0
    return Hit(1, "beats")


@fault("kill -9 of the web process", resource="web", seconds=6)
def kill_web(world: World, _choice: float) -> Course:
    world.fleet.kill("web")
    yield RESTART_SECONDS
    return Hit(1, "web processes")


@fault("kill -9 of the web process between request and commit", resource="web", seconds=8)
def kill_web_before_commit(world: World, _choice: float) -> Course:
    """A lock makes requests wait for their job's row, with the order written already: there they die."""
    waiting = 0
    with suppress(psycopg.Error), psycopg.connect(world.environment["DATABASE_URL"], connect_timeout=5) as session:
        # Another strike may hold back the commits that this lock has to wait for, and this very thread ends that one.
        session.execute("SET lock_timeout = '2s'")
        session.execute("LOCK TABLE jobs_job IN SHARE ROW EXCLUSIVE MODE")
        looked_long_enough = until(lambda: _requests_that_wait(session), 3)
        while not looked_long_enough():
            yield A_LOOK
        waiting = _requests_that_wait(session)
        world.fleet.kill("web")
        yield A_LOOK
    yield RESTART_SECONDS
    return Hit(waiting, "requests before their commit")


def _requests_that_wait(session: "psycopg.Connection[Any]") -> int:
    """Transactions that have written an order and now wait for our lock."""
    query = """
        SELECT count(DISTINCT waiting.pid) FROM pg_locks AS waiting JOIN pg_locks AS written USING (pid)
        WHERE waiting.relation = 'jobs_job'::regclass AND NOT waiting.granted
          AND written.relation = 'orders_orderline'::regclass AND written.mode = 'RowExclusiveLock'
    """
    row = session.execute(query).fetchone()
    return int(row[0]) if row else 0
