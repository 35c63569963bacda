from django.conf import settings
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.utils import timezone

from apps.jobs.admin.records import RecordAdmin
from apps.jobs.models import Worker


@admin.register(Worker)
class WorkerAdmin(RecordAdmin):
    list_display = ("name", "is_alive", "pid", "pool", "size", "busy", "listens_to", "started_at", "seen")
    ordering = ("-heartbeat_at",)
    fields = readonly_fields = (
        "name",
        "pid",
        "pool",
        "size",
        "busy",
        "listens_to",
        "started_at",
        "heartbeat_at",
        "stopped_at",
    )

    @admin.display(boolean=True, description="alive")
    def is_alive(self, worker: Worker) -> bool:
        return worker.stopped_at is None and worker.heartbeat_at > timezone.now() - settings.JOBS_LEASE

    @admin.display(description="queues")
    def listens_to(self, worker: Worker) -> str:
        return ", ".join(worker.queues)

    @admin.display(description="last seen", ordering="heartbeat_at")
    def seen(self, worker: Worker) -> str:
        return naturaltime(worker.heartbeat_at)
