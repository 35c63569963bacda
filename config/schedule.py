"""What runs by the clock.

Each entry is created in the database once, by `migrate`. From then on it is edited in the admin, and nothing here
overwrites that; an entry removed here is left alone there. Times are UTC, in which no hour is missing or comes twice.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from celery.schedules import crontab


@dataclass(frozen=True)
class Scheduled:
    """missed: what to do about ticks that were missed for longer than `late_after`, however many they are."""

    name: str
    task: str
    when: crontab | timedelta
    missed: Literal["run_once", "skip"]
    late_after: timedelta
    description: str = ""


SCHEDULE = [
    Scheduled(
        name="cleanup-old-records",
        task="tasks.cleanup_old_records",
        when=crontab(minute="0", hour="2"),
        # Rubbish that was not taken out last night is still there in the morning.
        missed="run_once",
        late_after=timedelta(minutes=5),
        description="Deletes what nobody needs any more, every night.",
    ),
    Scheduled(
        name="sync-external-data",
        task="tasks.sync_external_data",
        when=timedelta(seconds=300),
        # It has a cursor: one run fetches all that the missed ones would have.
        missed="run_once",
        late_after=timedelta(minutes=1),
        description="Asks the supplier what has changed, every five minutes.",
    ),
]
