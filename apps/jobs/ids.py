"""Ids of jobs."""

import secrets
import time
from uuid import NAMESPACE_URL, UUID, uuid5


def uuid7() -> UUID:
    """A UUID that sorts by time (RFC 9562, version 7), so that the ledger's primary key grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    random = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)


def job_id_of(task_id: str) -> UUID:
    """Celery takes any string for a task id, the ledger only UUIDs: another string gets one, always the same."""
    try:
        return UUID(task_id)
    except ValueError:
        return uuid5(NAMESPACE_URL, f"nightshift:{task_id}")
