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
# As each client calls it. The limits that workers and relays have are longer, and a long poll's is half a minute. A
# sentinel that is frozen takes its own two seconds (`config.broker`).
PATIENCE = {
    "socket_timeout": BROKER_TIMEOUT,
    "socket_connect_timeout": BROKER_TIMEOUT,
    "connect_timeout": BROKER_TIMEOUT,  # of RabbitMQ, with its handshake
    "pool_timeout": BROKER_TIMEOUT,  # of PostgreSQL
    "client-config": {  # of SQS
        "connect_timeout": BROKER_TIMEOUT,
        "read_timeout": BROKER_TIMEOUT,
        "retries": {"total_max_attempts": 1},
    },
}
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
    # Back to its pool, which a frozen broker would else empty for all other requests.
    connection.close()
    with current_app.connection_for_write(connect_timeout=BROKER_TIMEOUT, transport_options=PATIENCE) as broker:
        try:
            # Each address once: kombu's `connect` asks again after a pause of two seconds.
            broker.ensure_connection(max_retries=max(len(broker.alt) - 1, 0), reraise_as_library_errors=False)
        except (OSError, *broker.connection_errors, *broker.channel_errors) as exc:
            yield Reason("broker", "broker", f"The broker does not answer: {exc}")
