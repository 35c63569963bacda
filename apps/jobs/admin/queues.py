from datetime import UTC
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import DELETION, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from apps.jobs import queues
from apps.jobs.models import QueuePause

PERMISSION = "jobs.pause_queue"


class QueuePauseForm(forms.ModelForm[QueuePause]):
    queue = forms.ChoiceField(choices=lambda: [(name, name) for name in settings.JOBS_QUEUES])
    # One field with a label, which a phone has a calendar for. The admin's own are two, without any.
    until = forms.DateTimeField(
        required=False,
        widget=forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"}),
        help_text="UTC. It then resumes by itself; empty: when somebody resumes it.",
    )

    class Meta:
        model = QueuePause
        fields = ("queue", "reason", "until")

    def validate_unique(self) -> None:
        """The row of a pause whose end has passed is in nobody's way: pausing writes over it."""
        pause = QueuePause.objects.filter(pk=self.cleaned_data.get("queue")).first()
        if self.instance._state.adding and _in_force(pause):
            self.add_error("queue", "It is paused already.")

    def clean_until(self) -> Any:
        until = self.cleaned_data["until"]
        if until and until <= timezone.now():
            raise forms.ValidationError("This is over already.")
        if until and until > timezone.now() + queues.LONGEST_PAUSE:
            raise forms.ValidationError(queues.TOO_LONG)
        return until and until.astimezone(UTC)  # PostgreSQL knows no zone of 16 hours


@admin.register(QueuePause)
class QueueAdmin(admin.ModelAdmin[QueuePause]):
    """Every queue, paused or not. A pause is a row: adding it pauses the queue, deleting it resumes the queue."""

    form = QueuePauseForm
    readonly_fields = ("paused_at", "paused_by")

    def _may_pause(self, request: HttpRequest) -> bool:
        return request.user.has_perm(PERMISSION)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may_pause(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._may_pause(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._may_pause(request)

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """For the menu, in which "Add" beside "Queues" would promise a new queue."""
        return {**super().get_model_perms(request), "add": False}

    def get_fields(self, request: HttpRequest, obj: QueuePause | None = None) -> tuple[str, ...]:
        return ("queue", "reason", "until", *(self.readonly_fields if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: QueuePause | None = None) -> tuple[str, ...]:
        return ("queue", *self.readonly_fields) if obj else ()

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        only_save = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, {"title": "Pause a queue", **only_save, **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: QueuePause, form: Any, change: bool) -> None:
        queues.pause(obj.queue, obj.reason, obj.until, by=request.user)

    def delete_model(self, request: HttpRequest, obj: QueuePause) -> None:
        queues.resume(obj.queue)

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[QueuePause]") -> None:
        for pause in queryset:
            queues.resume(pause.queue)

    def get_urls(self) -> list[URLPattern]:
        resume = self.admin_site.admin_view(self.resume)
        return [path("<str:queue>/resume/", resume, name="jobs_queuepause_resume"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        pauses = QueuePause.objects.select_related("paused_by").in_bulk()
        rows = [
            (status, settings.JOBS_QUEUES.get(status.name), _in_force(pauses.get(status.name)))
            for status in queues.statuses()
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": "Queues",
            "opts": self.opts,
            "media": self.media,
            "rows": rows,
            "may_pause": self._may_pause(request),
        }
        return TemplateResponse(request, "admin/jobs/queuepause/queues.html", context)

    def resume(self, request: HttpRequest, queue: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self._may_pause(request):
            raise PermissionDenied
        if queue not in settings.JOBS_QUEUES:
            raise Http404(f"There is no queue {queue}.")
        pause = QueuePause.objects.filter(pk=queue).first()
        if pause is not None and queues.resume(queue):
            LogEntry.objects.log_actions(request.user.pk or 0, [pause], DELETION, "Resumed.", single_object=True)
            self.message_user(request, f"Resumed {queue}: its jobs start at once.", messages.SUCCESS)
        else:
            self.message_user(request, f"{queue} was not paused: nothing was done.", messages.WARNING)
        return redirect(reverse("admin:jobs_queuepause_changelist"))

    def response_add(self, request: HttpRequest, obj: QueuePause, post_url_continue: str | None = None) -> HttpResponse:
        self.message_user(request, f"Paused {obj.queue}: its jobs wait, and what runs goes on.", messages.SUCCESS)
        return redirect(reverse("admin:jobs_queuepause_changelist"))


def _in_force(pause: QueuePause | None) -> QueuePause | None:
    """One whose end has passed holds nothing back, and stays until the queue is paused again."""
    return pause if pause and (pause.until is None or pause.until > timezone.now()) else None
