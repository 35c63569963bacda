"""One dead letter, replayed from its own page: its arguments may be corrected first.

Sealed arguments are shown as `***`, and stay sealed where that is what comes back.
"""

import json
from typing import Any, NoReturn

from celery import current_app
from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from kombu.utils.json import dumps

from apps.jobs import dead_letters, sensitive
from apps.jobs.admin.records import job_link
from apps.jobs.dead_letters import NotReplayable
from apps.jobs.models import DeadLetter, MessageDecoder

# Characters. Whoever has to type more than this has a file, and should pass its name.
LONGEST_ARGUMENTS = 100_000


class ArgumentsForm(forms.Form):
    arguments = forms.CharField(
        max_length=LONGEST_ARGUMENTS,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 12, "cols": 80, "spellcheck": "false", "class": "vLargeTextField code"}),
        help_text="By name, as JSON. *** stands for a secret: left like this, it stays what it was.",
    )

    def clean_arguments(self) -> dict[str, Any]:
        try:
            value = json.loads(self.cleaned_data["arguments"], cls=MessageDecoder, parse_constant=_refuse_constant)
        except ValueError as exc:
            raise forms.ValidationError(f"This is not JSON: {exc}") from exc
        except RecursionError as exc:
            raise forms.ValidationError("This is nested too deeply.") from exc
        except (ArithmeticError, AttributeError, TypeError) as exc:  # of the types that Celery's dialect names
            raise forms.ValidationError("A __value__ is not a value of its __type__.") from exc
        if not isinstance(value, dict):
            raise forms.ValidationError('The arguments are an object by name: {"order_id": 7}.')
        if dead_letters.storable(value) != value:
            raise forms.ValidationError("A text may not hold a NUL or half a character.")
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON knows.")


def replay_one(table: Any, request: HttpRequest, letter: DeadLetter) -> HttpResponse:
    """A second time it says who was first, and does nothing."""
    page = table.page_of(letter.pk)
    if letter.state != DeadLetter.State.OPEN:
        messages.warning(request, _resolved(letter))
        return redirect(page)
    before = _editable(letter)
    form = ArgumentsForm(request.POST if request.method == "POST" else None, initial={"arguments": before})
    if form.is_valid() and _replay(request, letter, form, before):
        return redirect(page)
    return _page(table, request, letter, form)


def _resolved(letter: DeadLetter) -> str:
    by = f" by {letter.resolved_by}" if letter.resolved_by else ""
    return f"This dead letter was {letter.state} already{by}: nothing was done."


def _editable(letter: DeadLetter) -> str:
    """As Celery writes it, in which a date is told from a text."""
    try:
        arguments = dead_letters.named_arguments(letter)
    except NotReplayable:
        arguments = dict(letter.kwargs)
    return json.dumps(json.loads(dumps(sensitive.mask(arguments))), indent=2, ensure_ascii=False)


def _replay(request: HttpRequest, letter: DeadLetter, form: ArgumentsForm, before: str) -> bool:
    edited = form.cleaned_data["arguments"]
    changed = _canonical(form["arguments"].value()) != _canonical(before)
    if changed and sensitive.TOO_DEEP in form["arguments"].value():
        form.add_error("arguments", "What is nested too deep to be shown would be lost.")
        return False
    try:
        with transaction.atomic():
            kwargs = dead_letters.with_secrets(edited, letter) if changed else None
            job_id = dead_letters.replay(letter.pk, by=request.user, kwargs=kwargs)
            if job_id is not None:
                _log(request, letter, changed)
    except NotReplayable as exc:
        form.add_error("arguments", str(exc))
        return False
    if job_id is None:
        letter.refresh_from_db()
        messages.warning(request, _resolved(letter))
    else:
        messages.success(request, format_html("Replayed as job {}.", job_link(job_id)))
    return True


def _canonical(text: str) -> str:
    """The same for the same JSON. To Python 7.0 is 7 and true is 1, and a correction of just that would be none."""
    return json.dumps(json.loads(text), sort_keys=True)


def _log(request: HttpRequest, letter: DeadLetter, changed: bool) -> None:
    message = "Replayed with corrected arguments." if changed else "Replayed."
    LogEntry.objects.log_actions(request.user.pk or 0, [letter], CHANGE, message, single_object=True)


def _page(table: Any, request: HttpRequest, letter: DeadLetter, form: ArgumentsForm) -> HttpResponse:
    context = {
        **table.admin_site.each_context(request),
        "title": f"Replay {letter.task}?",
        "opts": table.opts,
        "media": table.media,
        "letter": letter,
        "page": table.page_of(letter.pk),
        "form": form,
        "task_is_known": letter.task in current_app.tasks,
    }
    return TemplateResponse(request, "admin/jobs/deadletter/replay.html", context)
