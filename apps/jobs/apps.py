from celery import current_app
from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "apps.jobs"
    label = "jobs"
    verbose_name = "Jobs"

    def ready(self) -> None:
        # Without this a plain Django process (the relay, the admin) has an empty task registry.
        current_app.autodiscover_tasks(["tasks"], related_name=None, force=True)
