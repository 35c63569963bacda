"""The Celery app: task names that stay, the ledger's base task, and its step in the worker."""

import logging
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from kombu.transport import TRANSPORT_ALIASES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


class Nightshift(Celery):
    """Celery whose task names do not move when a task moves to another file."""

    def gen_task_name(self, name: str, module: str) -> str:
        """Name every task of `tasks.<module>` plainly `tasks.<name>`: the name is a public contract."""
        package = module.partition(".")[0]
        return str(super().gen_task_name(name, "tasks" if package == "tasks" else module))

    def _task_from_fun(self, fun: Any, name: str | None = None, base: Any = None, **options: Any) -> Any:
        """A base class that derives from Celery's own Task, as in code from elsewhere, gets what ours has beneath it.

        Celery has no public place for it: `@shared_task` calls this.
        """
        if base is not None and not hasattr(base, "durable"):
            is_above = issubclass(self.Task, base)
            base = self.Task if is_above else type(base.__name__, (base, self.Task), {"abstract": True})
        return super()._task_from_fun(fun, name, base, **options)

    def register_task(self, task: Any, **options: Any) -> Any:
        """An instance has its class already. A worker of ours cannot run one that knows nothing of jobs."""
        if not hasattr(task, "durable"):
            raise TypeError(f"{task!r} has to derive from app.Task, and not from Celery's own.")
        return super().register_task(task, **options)

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: Any = None,
        eta: Any = None,
        task_id: Any = None,
        *others: Any,
        task_type: Any = None,
        **options: Any,
    ) -> Any:
        """By its name, too, a task that is known here and goes through the ledger is recorded there; and a broker-only
        one has its secrets sealed, and one live job a key.
        """
        task = None if task_type else self.tasks.get(name)
        if task is not None and any(getattr(task, what, False) for what in ("durable", "sensitive", "unique")):
            return task.apply_async(args, kwargs, task_id, countdown=countdown, eta=eta, **options)
        return super().send_task(name, args, kwargs, countdown, eta, task_id, *others, task_type=task_type, **options)


@setup_logging.connect
def keep_our_format(loglevel: int | None = None, **_: Any) -> None:
    """Django's logging is Celery's too, also for what is printed. Celery decides on the level alone."""
    if loglevel:
        logging.getLogger().setLevel(loglevel)
    app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)


app = Nightshift("nightshift", task_cls="apps.jobs.task:JobTask", control="apps.jobs.control:JobControl")
app.config_from_object("django.conf:settings", namespace="CELERY")

# Celery's Django fix-up closes the database connection before and after every task, which alone costs four fifths of
# the durable rate. Its only switch is a number of tasks, under exactly this name, outside the settings' namespace.
app.add_defaults(lambda: {"CELERY_DB_REUSE_MAX": 10**12})

# By name: the step needs Django's models, which are not there yet when this module is imported.
app.steps["worker"].add("apps.jobs.lease:LeaseStep")
app.steps["worker"].add("apps.jobs.prefork:PoolStep")
app.steps["worker"].add("apps.jobs.metrics.counts:CountsStep")
app.steps["worker"].add("apps.jobs.health.liveness:LivenessStep")
app.steps["worker"].add("apps.jobs.timers:TimersStep")
app.steps["worker"].add("apps.jobs.garbage:FreezeStep")

# Same URLs, same messages: kombu's transports, made to outlive an envelope that they cannot read and a server that does
# not answer. By name, so that only the one in use is loaded.
TRANSPORT_ALIASES.update(
    redis="apps.jobs.transport:Transport",
    rediss="apps.jobs.transport:Transport",
    sentinel="apps.jobs.brokers.sentinel:Transport",
    amqp="apps.jobs.brokers.rabbitmq:Transport",
    pyamqp="apps.jobs.brokers.rabbitmq:Transport",
    amqps="apps.jobs.brokers.rabbitmq:SSLTransport",
    sqs="apps.jobs.brokers.sqs:Transport",
    pgmq="apps.jobs.brokers.postgresql:Transport",
)
