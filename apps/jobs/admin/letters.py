from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from apps.jobs import dead_letters
from apps.jobs.admin import export, replay
from apps.jobs.admin.acts import Act, ActingAdmin, AskForm, Batch
from apps.jobs.admin.filters import CreatedFilter, FoldedFilter, QueueFilter, TaskFilter
from apps.jobs.admin.records import (
    NOTHING,
    SEARCHED,
    as_json,
    exact,
    folded,
    job_link,
    link,
    state_badge,
    two_lines,
    with_id,
    with_text,
)
from apps.jobs.models import DeadLetter

OPEN = Q(state=DeadLetter.State.OPEN)
# Minutes: who has to spread a replay over more than a day should mend something first.
LONGEST_SPREAD = 24 * 60


class ReplayForm(AskForm):
    minutes = forms.IntegerField(
        min_value=0,
        max_value=LONGEST_SPREAD,
        initial=0,
        label="Spread over minutes",
        help_text="So that what broke is not broken again by all of them at once. 0: now.",
    )


class DiscardForm(AskForm):
    reason = forms.CharField(
        max_length=2_000,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text="For the next person who asks.",
    )


def replay_batch(batch: Batch) -> Collection[UUID]:
    step = timedelta(minutes=batch.asked["minutes"]).total_seconds() / batch.total
    return dead_letters.replay_batch(batch.ids, by=batch.by, delay=batch.start * step, step=step)


def discard_batch(batch: Batch) -> Collection[UUID]:
    locked = DeadLetter.objects.filter(OPEN, pk__in=batch.ids).select_for_update().order_by("pk")
    ids = list(locked.values_list("pk", flat=True))
    dead_letters.discard(DeadLetter.objects.filter(pk__in=ids), batch.asked["reason"], by=batch.by)
    return ids


REPLAY = Act(
    name="replay",
    label="Replay",
    done="Replayed",
    means="replayed: each becomes a new job",
    permission="jobs.replay_deadletter",
    applies_to=OPEN,
    none="None of these is open any more: nothing was replayed.",
    otherwise="cannot be replayed: their task is unknown, or the arguments do not fit. One alone says why.",
    perform=replay_batch,
    form=ReplayForm,
)
DISCARD = Act(
    name="discard",
    label="Discard",
    done="Discarded",
    means="discarded: closed without a replay",
    permission="jobs.discard_deadletter",
    applies_to=OPEN,
    none="None of these is open any more: nothing was discarded.",
    otherwise="had been resolved by somebody else.",
    perform=discard_batch,
    form=DiscardForm,
)


@admin.register(DeadLetter)
class DeadLetterAdmin(ActingAdmin):
    list_display = ("summary", "kind", "queue", "attempts", "age", "badge")
    list_filter = ("state", QueueFilter, ("kind", FoldedFilter), TaskFilter, CreatedFilter)
    search_fields = ("id",)
    search_help_text = (
        f"An id, or a fingerprint, finds any letter. Other text is looked for in the newest {SEARCHED:,} that the"
        " filters leave: in the task's name, the arguments and the error."
    )
    ordering = ("-created_at",)
    sortable_by = ("age",)
    actions = ("export_csv", "export_json")
    acts = (REPLAY, DISCARD)
    cause_fields = ("task", "kind", "exception")
    fields = readonly_fields = (
        "task",
        "kind",
        "queue",
        "shown_error",
        "shown_traceback",
        "shown_args",
        "shown_kwargs",
        "attempts",
        "shown_fingerprint",
        "shown_job",
        exact("created_at"),
        "badge",
        exact("resolved_at"),
        "resolved_by",
        "reason",
        "shown_replay",
    )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("causes/", view(self.causes), name="jobs_deadletter_causes"),
            path("<uuid:pk>/replay/", view(self.replay_one), name="jobs_deadletter_replay"),
            *super().get_urls(),
        ]

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[DeadLetter]", search_term: str
    ) -> tuple["QuerySet[DeadLetter]", bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if DeadLetter.objects.filter(fingerprint=term).exists():  # which is 32 hexadecimal digits, as an id may be
            return queryset.filter(fingerprint=term), False
        found = with_id(queryset, term, ("id", "job_id", "replay_id"))
        if found is not None:
            return found, False
        columns = ("task", "message", "exception", "args", "kwargs")
        return with_text(queryset, queryset[:SEARCHED].values("id", *columns), term, columns), False

    # --- Causes -------------------------------------------------------------------------------------------------------

    def causes(self, request: HttpRequest) -> HttpResponse:
        """Open letters by fingerprint: a hundred letters are mostly one cause."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        causes = dead_letters.causes()
        context = {
            **self.admin_site.each_context(request),
            "title": "Dead letters by cause",
            "opts": self.opts,
            "media": self.media,
            "causes": causes,
            "letters": sum(cause.count for cause in causes),
            "at_most": dead_letters.CAUSES,
            "acts": self.permitted(request),
            "list": reverse("admin:jobs_deadletter_changelist"),
        }
        return TemplateResponse(request, "admin/jobs/deadletter/causes.html", context)

    # --- One letter ---------------------------------------------------------------------------------------------------

    def buttons(self, request: HttpRequest, row: DeadLetter) -> list[tuple[str, str]]:
        return [(label, address) for label, address in super().buttons(request, row) if label != REPLAY.label]

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        letter = kwargs["obj"]
        if letter.state == DeadLetter.State.OPEN and request.user.has_perm(REPLAY.permission):
            context["links"] = [("Replay…", reverse("admin:jobs_deadletter_replay", args=[letter.pk]))]
        return super().render_change_form(request, context, *args, **kwargs)

    def replay_one(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        if request.method not in ("GET", "HEAD", "POST"):
            return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
        if not request.user.has_perm(REPLAY.permission):
            raise PermissionDenied
        letter = DeadLetter.objects.filter(pk=pk).first()
        if letter is None:
            raise Http404(f"There is no dead letter {pk}.")
        return replay.replay_one(self, request, letter)

    # --- Export -------------------------------------------------------------------------------------------------------

    @admin.action(description="Export as CSV")
    def export_csv(self, request: HttpRequest, letters: "QuerySet[DeadLetter]") -> StreamingHttpResponse:
        return export.as_csv(request, letters)

    @admin.action(description="Export as JSON")
    def export_json(self, request: HttpRequest, letters: "QuerySet[DeadLetter]") -> StreamingHttpResponse:
        return export.as_json(request, letters)

    # --- Columns ------------------------------------------------------------------------------------------------------

    @admin.display(description="task")
    def summary(self, letter: DeadLetter) -> str:
        return two_lines(letter.task, f"{letter.exception}: {letter.message}", "bad")

    @admin.display(description="created", ordering="created_at")
    def age(self, letter: DeadLetter) -> str:
        return naturaltime(letter.created_at)

    @admin.display(description="state")
    def badge(self, letter: DeadLetter) -> str:
        return state_badge(letter.state)

    @admin.display(description="error")
    def shown_error(self, letter: DeadLetter) -> str:
        return f"{letter.exception}: {letter.message}"

    @admin.display(description="traceback")
    def shown_traceback(self, letter: DeadLetter) -> str:
        return folded("Show the traceback", letter.traceback) if letter.traceback else NOTHING

    @admin.display(description="args")
    def shown_args(self, letter: DeadLetter) -> str:
        return as_json(letter.args) if letter.args else NOTHING

    @admin.display(description="kwargs")
    def shown_kwargs(self, letter: DeadLetter) -> str:
        return as_json(letter.kwargs) if letter.kwargs else NOTHING

    @admin.display(description="cause")
    def shown_fingerprint(self, letter: DeadLetter) -> str:
        return link(
            f"{reverse('admin:jobs_deadletter_changelist')}?fingerprint={letter.fingerprint}", letter.fingerprint
        )

    @admin.display(description="job")
    def shown_job(self, letter: DeadLetter) -> str:
        return job_link(letter.job_id if letter.durable else None)

    @admin.display(description="replayed by")
    def shown_replay(self, letter: DeadLetter) -> str:
        return job_link(letter.replay_id)
