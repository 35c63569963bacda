"""The Celery app.

Importing this module is what `celery -A config worker` does first, so whatever has to be in the environment before
Celery's worker is imported is put there here.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# A deploy sends SIGTERM. Celery's warm shutdown would wait for running jobs without an end; its soft shutdown waits
# `worker_soft_shutdown_timeout` seconds, and then the lease step hands back to the ledger what still runs.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")


class Nightshift(Celery):
    """Celery whose task names do not move when a task moves to another file."""

    def gen_task_name(self, name: str, module: str) -> str:
        """Name every task of `tasks.<module>` plainly `tasks.<name>`: the name is a public contract."""
        package = module.partition(".")[0]
        return super().gen_task_name(name, "tasks" if package == "tasks" else module)


app = Nightshift("nightshift", task_cls="apps.jobs.task:JobTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
