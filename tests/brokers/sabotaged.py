"""The project's settings with one thing broken; see sabotage.py."""

import os

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.brokers.sabotaged_app.Sabotaged"]

match os.environ["SABOTAGE"]:
    case "killed_broker_only":
        CELERY_TASK_ACKS_LATE = False
    case "restart":
        CELERY_BROKER_CONNECTION_RETRY = False
    case "control" | "flower":
        CELERY_WORKER_SEND_TASK_EVENTS = CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
