"""Can this process serve? The database, its migrations, and the broker, each asked with little patience.

A broker is only asked for where a worker waits for its messages.
"""

from collections.abc import Iterator

from celery import current_app
from django.core.cache import cache
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.jobs.health import pulling
from apps.jobs.health.reasons import Reason

# A broker that does not answer within a second does not answer soon enough.
BROKER_TIMEOUT = 1.0
# What has been applied stays so: the answer "all" is remembered, because to find it out takes longer than all else.
MIGRATED = "nightshift.migrated"


def troubles() -> list[Reason]:
    """Raises the database's own errors. Whether a broker is needed stands in a table, so migrations come first."""
    return [*_missing_migrations()] or [*_absent_broker()]


def _missing_migrations() -> Iterator[Reason]:
    if cache.get(MIGRATED):
        return
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing)
        yield Reason("migrations", "database", f"Not migrated: {names}.")
    else:
        cache.set(MIGRATED, True, timeout=None)


def _absent_broker() -> Iterator[Reason]:
    if pulling.all_pull():
        return
    patience = {"socket_timeout": BROKER_TIMEOUT, "socket_connect_timeout": BROKER_TIMEOUT}
    with current_app.connection_for_write(connect_timeout=BROKER_TIMEOUT, transport_options=patience) as broker:
        try:
            broker.connect()
        except (OSError, *broker.connection_errors, *broker.channel_errors) as exc:
            yield Reason("broker", "broker", f"The broker does not answer: {exc}")
