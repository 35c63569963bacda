from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from apps.jobs import queues
from apps.jobs.models import QueuePause


class QueuePauseForm(forms.ModelForm[QueuePause]):
    queue = forms.ChoiceField(choices=lambda: [(name, name) for name in settings.JOBS_QUEUES])

    class Meta:
        model = QueuePause
        fields = ("queue", "reason", "until")


@admin.register(QueuePause)
class QueuePauseAdmin(admin.ModelAdmin[QueuePause]):
    """Adding one pauses the queue; deleting it resumes the queue."""

    form = QueuePauseForm
    list_display = ("queue", "reason", "until", "paused_at", "paused_by")

    def _may_pause(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.pause_queue")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may_pause(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._may_pause(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._may_pause(request)

    def get_readonly_fields(self, request: HttpRequest, obj: QueuePause | None = None) -> tuple[str, ...]:
        return ("queue",) if obj else ()

    def save_model(self, request: HttpRequest, obj: QueuePause, form: Any, change: bool) -> None:
        queues.pause(obj.queue, obj.reason, obj.until, by=request.user)

    def delete_model(self, request: HttpRequest, obj: QueuePause) -> None:
        queues.resume(obj.queue)

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[QueuePause]") -> None:
        for pause in queryset:
            queues.resume(pause.queue)
