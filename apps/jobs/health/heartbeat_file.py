"""The heartbeat file: how a container's health check learns that this process is alive, without asking it.

Asking a worker over the broker takes a connection, a reply queue and seconds, and fails when the broker is away; a
worker that waits for its broker is not one to restart. `JOBS_HEARTBEAT_FILE` names the file; it is touched at least
every ten seconds by the loop that does the work, or by the thread beside it where that loop runs the jobs itself.
"""

import logging
from pathlib import Path

from django.conf import settings

logger = logging.getLogger(__name__)

# Seconds. Three may be missed before compose.yaml takes the process for dead.
EVERY = 10.0


def touch() -> None:
    """Raises nothing: who touches it has leases to renew."""
    if settings.JOBS_HEARTBEAT_FILE:
        try:
            Path(settings.JOBS_HEARTBEAT_FILE).touch()
        except OSError as exc:
            logger.warning("The heartbeat file cannot be touched: %s", exc)
