"""What happens to PostgreSQL."""

import psycopg

from apps.local.chaos.faults.strike import Course, Hit, fault, pick, until_busy
from apps.local.chaos.world import WORKERS, World

# Every process has something to commit in this time: producers, web, relays, beats and workers.
HANGING_SECONDS = 1.5


@fault("database restarted (fast)", resource="database", seconds=6)
def restart_database(world: World, choice: float) -> Course:
    running = yield from until_busy(world, pick(choice, WORKERS))
    world.postgres.restart("fast")
    yield 3.0
    return Hit(running, "running jobs")


@fault("database restarted (immediate)", resource="database", seconds=6)
def crash_database(world: World, choice: float) -> Course:
    running = yield from until_busy(world, pick(choice, WORKERS))
    world.postgres.restart("immediate")
    yield 3.0
    return Hit(running, "running jobs")


@fault("database crashed between a commit and its answer", resource="database", seconds=8)
def crash_before_answer(world: World, _choice: float) -> Course:
    """A commit that waits for a standby, and there is none, is written already. Whoever asked for it never hears so."""
    wait_for_a_standby(world)
    try:
        yield HANGING_SECONDS
        waiting = commits_that_wait(world)
    finally:
        crash_and_wait_for_nobody(world)
    yield 3.0
    return Hit(waiting, "commits without an answer")


def wait_for_a_standby(world: World) -> None:
    with psycopg.connect(world.environment["DATABASE_URL"], autocommit=True, connect_timeout=5) as session:
        session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        session.execute("SELECT pg_reload_conf()")


def crash_and_wait_for_nobody(world: World) -> None:
    """Not by a statement, which the server may refuse: with this setting left it would never answer a commit again."""
    world.postgres.stop("immediate")
    # Where ALTER SYSTEM writes, and nobody else.
    (world.postgres.data / "postgresql.auto.conf").write_text("")
    world.postgres.start()


def commits_that_wait(world: World) -> int:
    return int(world.witness.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
