"""What an operator may do to rows: asked for, confirmed, done in batches, and written to the admin's log.

One row or all of a hundred thousand go the same way. First a page that says how many there are; posted again from
there, it is done. Each batch is a transaction together with its lines in the log, so a request that is cut short has
done some. One that would take too long stops by itself, and asks whether to go on.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from apps.jobs.admin.records import RecordAdmin
from apps.jobs.admin.strict import nonsense_is_refused
from apps.jobs.clock import database_now

# As many ids as ten megabytes hold.
AT_ONCE = 100_000
BATCH = 500
# Seconds: what sits before a web server gives an answer up after thirty.
PATIENCE = 20.0
# How many causes the page shows that asks for confirmation.
CAUSES_SHOWN = 10


class AskForm(forms.Form):
    """The moment of the question comes back with the answer: what has come in since was not asked about.

    So does the last row that was tried, where the answer goes on with what an earlier one began. What is left lies
    behind that row: to count those before it would not do, for some of them are gone from the choice, and others, like
    a job that was asked to stop, look as before. How many they were says how far the whole has come.
    """

    asked_at = forms.DateTimeField(widget=forms.HiddenInput)
    last_at = forms.DateTimeField(widget=forms.HiddenInput, required=False)
    last_id = forms.UUIDField(widget=forms.HiddenInput, required=False)
    tried = forms.IntegerField(widget=forms.HiddenInput, required=False, min_value=0, max_value=AT_ONCE)

    @property
    def said(self) -> Mapping[str, Any]:
        """What is known by now, on the way to the page as on the way back."""
        return self.cleaned_data if self.is_bound else self.initial

    @property
    def at_most(self) -> int:
        return AT_ONCE - (self.said.get("tried") or 0)

    def left_of(self, rows: "QuerySet[Any]") -> "QuerySet[Any]":
        """Those that are still to be tried, the newest first."""
        asked_at, last_at, last_id = (self.said.get(name) for name in ("asked_at", "last_at", "last_id"))
        if asked_at:
            rows = rows.filter(created_at__lte=asked_at)
        if last_at and last_id:
            rows = rows.filter(Q(created_at__lt=last_at) | Q(created_at=last_at, pk__lt=last_id))
        return rows.order_by("-created_at", "-pk")


@dataclass(frozen=True)
class Batch:
    """Some of the chosen rows, the first of which is number `start` of `total`; `asked` is what the form asked for."""

    ids: Sequence[UUID]
    start: int
    total: int
    by: Any
    asked: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Act:
    """`perform` returns the ids of those that it was done to; `otherwise` says what is with the others."""

    name: str
    label: str
    done: str
    means: str
    permission: str
    applies_to: Q
    none: str
    otherwise: str
    perform: Callable[[Batch], Collection[UUID]]
    form: type[AskForm] = AskForm

    def log_message(self, asked: dict[str, Any]) -> str:
        reason = asked.get("reason")
        return f"{self.done}: {reason}" if reason else f"{self.done}."


class ActingAdmin(RecordAdmin):
    """A table whose rows something can be done to: from the list to many, from a row's own page to one."""

    acts: tuple[Act, ...] = ()
    cause_fields: tuple[str, ...] = ()
    change_form_template = "admin/jobs/record.html"

    def get_actions(self, request: HttpRequest) -> Any:
        mine = {act.name: (_as_action(act), act.name, f"{act.label}…") for act in self.permitted(request)}
        return {**super().get_actions(request), **mine}

    def permitted(self, request: HttpRequest) -> list[Act]:
        return [act for act in self.acts if request.user.has_perm(act.permission)]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method == "POST":
            self._refuse_what_is_not_permitted(request)
        return super().changelist_view(request, extra_context)

    def _refuse_what_is_not_permitted(self, request: HttpRequest) -> None:
        """Django leaves the action out of the list, and then answers as if nothing had been asked."""
        asked = set(request.POST.getlist("action"))
        for act in self.acts:
            if act.name in asked and not request.user.has_perm(act.permission):
                raise PermissionDenied

    # --- One row ------------------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        one = self.admin_site.admin_view(self.act_on_one)
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        return [path("<uuid:pk>/<slug:act_name>/do/", one, name=name), *super().get_urls()]

    @nonsense_is_refused()
    def act_on_one(self, request: HttpRequest, pk: UUID, act_name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        act = next((act for act in self.acts if act.name == act_name), None)
        if act is None:
            raise Http404(act_name)
        if not request.user.has_perm(act.permission):
            raise PermissionDenied
        rows = self.get_queryset(request).filter(pk=pk)
        if not rows.exists():
            raise Http404(f"There is no {self.opts.verbose_name} {pk}.")
        return self.ask_or_do(request, act, rows, self.page_of(pk))

    def page_of(self, pk: Any) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[pk])

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        row = kwargs.get("obj")
        context["buttons"] = self.buttons(request, row) if row else []
        return super().render_change_form(request, context, *args, **kwargs)

    def buttons(self, request: HttpRequest, row: Any) -> list[tuple[str, str]]:
        """Label and address of each act that is permitted, and would do something to this row."""
        rows = self.get_queryset(request).filter(pk=row.pk)
        route = f"admin:{self.opts.app_label}_{self.opts.model_name}_act"
        return [
            (act.label, reverse(route, args=[row.pk, act.name]))
            for act in self.permitted(request)
            if rows.filter(act.applies_to).exists()
        ]

    # --- Asking and doing ---------------------------------------------------------------------------------------------

    def ask_or_do(self, request: HttpRequest, act: Act, rows: "QuerySet[Any]", back: str) -> HttpResponse:
        rows = rows.filter(act.applies_to)
        form = act.form(
            request.POST if "confirmed" in request.POST else None,
            initial={"asked_at": database_now().isoformat()},  # by the clock that dates the rows
        )
        if form.is_valid():
            return self._do(request, act, rows, form, back)
        if form.left_of(rows).exists():
            return self._ask(request, act, rows, form, back)
        self.message_user(request, act.none, messages.WARNING)
        return redirect(back)

    def _ask(self, request: HttpRequest, act: Act, rows: "QuerySet[Any]", form: AskForm, back: str) -> HttpResponse:
        rows = form.left_of(rows)
        count = rows.order_by()[: form.at_most + 1].count()
        causes = rows.order_by().values_list(*self.cause_fields).annotate(count=Count("pk")).order_by("-count")
        one_or_many = self.opts.verbose_name if count == 1 else self.opts.verbose_name_plural
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.label} {min(count, form.at_most):,} {one_or_many}?",
            "opts": self.opts,
            "media": self.media,
            "act": act,
            "count": count,
            "at_most": form.at_most,
            "fields": self.cause_fields,
            "causes": causes[:CAUSES_SHOWN],
            "form": form,
            "back": back,
            "kept": [
                (name, value)
                for name in (ACTION_CHECKBOX_NAME, "action", "select_across")
                for value in request.POST.getlist(name)
            ],
        }
        return TemplateResponse(request, "admin/jobs/confirm.html", context)

    def _do(self, request: HttpRequest, act: Act, rows: "QuerySet[Any]", form: AskForm, back: str) -> HttpResponse:
        """For as long as a request may take; then it asks whether to go on."""
        asked, before = form.cleaned_data, form.cleaned_data["tried"] or 0
        found = list(form.left_of(rows).values_list("created_at", "pk")[: form.at_most])
        began, tried, done = monotonic(), 0, 0
        while tried < len(found):
            ids = [pk for _, pk in found[tried : tried + BATCH]]
            batch = Batch(ids, before + tried, before + len(found), request.user, asked)
            with transaction.atomic():
                acted_on = act.perform(batch)
                self.log_many(request, rows.model.objects.filter(pk__in=acted_on), act.log_message(asked))
            tried, done = tried + len(ids), done + len(acted_on)
            if monotonic() - began > PATIENCE:
                break
        self._say(request, act, done, refused=tried - done)
        if tried == len(found):
            return redirect(back)
        last_at, last_id = found[tried - 1]
        where = {"last_at": last_at.isoformat(), "last_id": last_id, "tried": before + tried}
        again = {**asked, "asked_at": asked["asked_at"].isoformat(), **where}
        return self._ask(request, act, rows, act.form(initial=again), back)

    def _say(self, request: HttpRequest, act: Act, done: int, refused: int) -> None:
        if done:
            self.message_user(request, f"{act.done} {done:,}.", messages.SUCCESS)
        if refused:
            self.message_user(request, f"{refused:,} {act.otherwise}", messages.WARNING)
        if not (done or refused):
            self.message_user(request, act.none, messages.WARNING)


def _as_action(act: Act) -> Callable[[ActingAdmin, HttpRequest, "QuerySet[Any]"], HttpResponse]:
    def action(table: ActingAdmin, request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse:
        return table.ask_or_do(request, act, rows, request.get_full_path())

    return action
