"""The heartbeat file: how a container's health check learns that this process is alive, without asking it.

Asking a worker over the broker takes a connection, a reply queue and seconds, and fails when the broker is away; a
worker that waits for its broker is not one to restart. `JOBS_HEARTBEAT_FILE` names the file; it is touched at least
every ten seconds by the loop that does the work.
"""

from pathlib import Path

from django.conf import settings


def touch() -> None:
    if settings.JOBS_HEARTBEAT_FILE:
        Path(settings.JOBS_HEARTBEAT_FILE).touch()
