"""The project's own settings in a hurry: every process of a chaos run loads these.

Everything that a fault has to wait for is shortened, so that a run meets each of them several times in two minutes.
The proportions are those of production: a lease is renewed three times, and the visibility time-out outlasts it.
"""

from datetime import timedelta

from config.settings import *  # noqa: F403
from config.settings import CELERY_BROKER_TRANSPORT_OPTIONS, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "apps.local.chaos"]

JOBS_LEASE = timedelta(seconds=4)
JOBS_RESCUE_EVERY = timedelta(seconds=1)
JOBS_SENT_TIMEOUT = timedelta(seconds=60)
JOBS_SHUTDOWN_GRACE = timedelta(seconds=5)
# In a long run an innocent job may meet many: PostgreSQL alone is restarted more often than once in half a minute.
JOBS_SPARE_CRASHES = 5
JOBS_UNKNOWN_TASK_GRACE = timedelta(seconds=5)
JOBS_UNKNOWN_TASK_EVERY = timedelta(seconds=2)

CELERY_BROKER_TRANSPORT_OPTIONS = {
    **CELERY_BROKER_TRANSPORT_OPTIONS,
    "visibility_timeout": 10,
    "unacked_restore_interval": 2,
}
