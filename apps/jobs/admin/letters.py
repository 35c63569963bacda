from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from apps.jobs import dead_letters
from apps.jobs.admin.records import (
    MESSAGE_IN_LIST,
    QueueFilter,
    RecordAdmin,
    TaskFilter,
    as_json,
    folded,
    found,
    job_link,
)
from apps.jobs.models import DeadLetter

# How many causes the page shows that asks for confirmation.
CAUSES_SHOWN = 10


class ReplayForm(forms.Form):
    minutes = forms.IntegerField(
        min_value=0,
        max_value=24 * 60,
        initial=0,
        label="Spread over minutes",
        help_text="So that what broke is not broken again by all of them at once. 0: now.",
    )


class DiscardForm(forms.Form):
    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}), help_text="For the next person who asks."
    )


@admin.register(DeadLetter)
class DeadLetterAdmin(RecordAdmin):
    list_display = ("task", "short_message", "kind", "queue", "attempts", "age", "state")
    list_display_links = ("task", "short_message")
    list_filter = ("state", "kind", QueueFilter, TaskFilter)
    search_fields = ("id",)
    search_help_text = "An id; or a part of the task's name, of its arguments, or of the error; or a fingerprint."
    ordering = ("-created_at",)
    actions = ("replay", "discard")
    fields = readonly_fields = (
        "task",
        "kind",
        "queue",
        "shown_error",
        "shown_traceback",
        "shown_args",
        "shown_kwargs",
        "attempts",
        "fingerprint",
        "shown_job",
        "created_at",
        "state",
        "resolved_at",
        "resolved_by",
        "reason",
        "shown_replay",
    )

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[DeadLetter]", search_term: str
    ) -> tuple["QuerySet[DeadLetter]", bool]:
        if not search_term.strip():
            return queryset, False
        texts = ("task", "message", "exception", "fingerprint", "args", "kwargs")
        return found(queryset, search_term, ("id", "job_id", "replay_id"), texts), False

    @admin.display(description="message", ordering="message")
    def short_message(self, letter: DeadLetter) -> str:
        message = letter.message
        return message if len(message) <= MESSAGE_IN_LIST else message[: MESSAGE_IN_LIST - 1] + "…"

    @admin.display(description="created", ordering="created_at")
    def age(self, letter: DeadLetter) -> str:
        return naturaltime(letter.created_at)

    @admin.display(description="error")
    def shown_error(self, letter: DeadLetter) -> str:
        return f"{letter.exception}: {letter.message}"

    @admin.display(description="traceback")
    def shown_traceback(self, letter: DeadLetter) -> str:
        return folded("Show the traceback", letter.traceback) if letter.traceback else "–"

    @admin.display(description="args")
    def shown_args(self, letter: DeadLetter) -> str:
        return as_json(letter.args)

    @admin.display(description="kwargs")
    def shown_kwargs(self, letter: DeadLetter) -> str:
        return as_json(letter.kwargs)

    @admin.display(description="job")
    def shown_job(self, letter: DeadLetter) -> str:
        return job_link(letter.job_id if letter.durable else None)

    @admin.display(description="replayed by")
    def shown_replay(self, letter: DeadLetter) -> str:
        return job_link(letter.replay_id)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.replay_deadletter")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.discard_deadletter")

    @admin.action(description="Replay…", permissions=["replay"])
    def replay(self, request: HttpRequest, letters: "QuerySet[DeadLetter]") -> HttpResponse | None:
        return self._confirm(request, letters, "replay", ReplayForm, self._replay)

    @admin.action(description="Discard…", permissions=["discard"])
    def discard(self, request: HttpRequest, letters: "QuerySet[DeadLetter]") -> HttpResponse | None:
        return self._confirm(request, letters, "discard", DiscardForm, self._discard)

    def _confirm(
        self,
        request: HttpRequest,
        letters: "QuerySet[DeadLetter]",
        action: str,
        form_class: type[forms.Form],
        confirmed: Callable[[HttpRequest, Any, Any], None],
    ) -> HttpResponse | None:
        """First a page that says how many and asks what has to be known; posted again from there, it is done."""
        letters = letters.filter(state=DeadLetter.State.OPEN)
        if not letters.exists():
            self.message_user(request, "None of these is open any more.", messages.WARNING)
            return None
        form = form_class(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            confirmed(request, letters, form.cleaned_data)
            return None
        return self._confirmation(request, letters, action, form)

    def _confirmation(
        self, request: HttpRequest, letters: "QuerySet[DeadLetter]", action: str, form: forms.Form
    ) -> HttpResponse:
        causes = letters.order_by().values("task", "kind", "exception").annotate(count=Count("pk"))
        count = letters.count()
        context = {
            **self.admin_site.each_context(request),
            "title": f"{action.capitalize()} {count:,} dead letter{'' if count == 1 else 's'}?",
            "opts": self.opts,
            "media": self.media,
            "action": action,
            "count": count,
            "causes": causes.order_by("-count")[:CAUSES_SHOWN],
            "form": form,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, "admin/jobs/confirm.html", context)

    def _replay(self, request: HttpRequest, letters: "QuerySet[DeadLetter]", asked: dict[str, Any]) -> None:
        ids = list(letters.values_list("pk", flat=True))
        chosen = DeadLetter.objects.filter(pk__in=ids)
        made = dead_letters.replay_many(chosen, by=request.user, over=timedelta(minutes=asked["minutes"]))
        replayed = chosen.filter(replay_id__in=made)
        self.log_many(request, replayed, "Replayed.")
        self.message_user(request, f"Replayed {len(made):,}.", messages.SUCCESS)
        left = chosen.filter(state=DeadLetter.State.OPEN).count()
        if left:
            sentence = f"{left:,} cannot be replayed and stay open: their task is unknown, or the arguments do not fit."
            self.message_user(request, sentence, messages.WARNING)

    def _discard(self, request: HttpRequest, letters: "QuerySet[DeadLetter]", asked: dict[str, Any]) -> None:
        with transaction.atomic():
            ids = list(letters.values_list("pk", flat=True))
            chosen = DeadLetter.objects.filter(pk__in=ids)
            count = dead_letters.discard(chosen, asked["reason"], by=request.user)
            self.log_many(request, chosen, f"Discarded: {asked['reason']}")
        self.message_user(request, f"Discarded {count:,}.", messages.SUCCESS)
