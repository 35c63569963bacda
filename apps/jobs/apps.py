from celery import current_app
from celery.signals import task_postrun, worker_shutting_down
from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class JobsConfig(AppConfig):
    name = "apps.jobs"
    label = "jobs"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from apps.jobs import groups, lease, log_context, redaction, schedule

        redaction.install()
        task_postrun.connect(log_context.done)
        worker_shutting_down.connect(lease.begin_shutdown)
        post_migrate.connect(schedule.ensure_schedule, sender=self)
        post_migrate.connect(groups.ensure_groups, sender=self)
        if settings.BROKER.kind == "postgresql":
            from apps.jobs.brokers import postgresql

            post_migrate.connect(postgresql.install, sender=self)
        # Without this a plain Django process (the relay, the admin) has an empty task registry.
        current_app.autodiscover_tasks(["tasks"], related_name=None, force=True)
