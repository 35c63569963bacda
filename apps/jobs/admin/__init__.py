"""The operator's tables: jobs, dead letters, queues, workers, schedules.

Rows of the ledger are a record: they are looked at here, and changed only through the functions that guard their
transitions. Whatever is shown may come from anywhere, so all of it is escaped, and secrets are masked.
"""

from apps.jobs.admin.jobs import JobAdmin
from apps.jobs.admin.letters import DeadLetterAdmin
from apps.jobs.admin.queues import QueueAdmin
from apps.jobs.admin.schedules import ScheduleAdmin
from apps.jobs.admin.workers import WorkerAdmin

__all__ = ["DeadLetterAdmin", "JobAdmin", "QueueAdmin", "ScheduleAdmin", "WorkerAdmin"]
