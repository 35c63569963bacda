"""One job, for its owner and for staff: as JSON or a stream for a page that watches it, as a page for a person.

Somebody else's job is answered like one that does not exist: an id that was seen or guessed is not a permission. For
those that somebody else has asked for, staff need the same ones as in the admin: to look, and to cancel.
"""

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from apps.jobs import ledger, streams
from apps.jobs.models import DeadLetter, Job
from apps.jobs.sensitive import mask
from apps.jobs.timeline import timeline


@login_required
@require_GET
@never_cache
def status(request: HttpRequest, job_id: UUID) -> HttpResponseBase:
    job = _visible_job(request, job_id)
    if _wants_json(request):
        return JsonResponse(as_json(job), encoder=ResultEncoder)
    context: dict[str, Any] = {"job": job, "moments": timeline(job)}
    if "X-Piece" in request.headers:  # the page's script asks for what may have changed
        return render(request, "jobs/_timeline.html", context)
    context |= {
        "status": as_json(job),
        "arguments": _arguments(job),
        "may_cancel": job.is_live and _may_cancel(request, job),
        "letter": DeadLetter.objects.filter(job_id=job_id).first(),
    }
    return render(request, "jobs/job.html", context)


@login_required
@require_GET
def events(request: HttpRequest, job_id: UUID) -> HttpResponseBase:
    """The same as a stream, until the job has ended; `life` is its timeline, in HTML."""
    _visible_job(request, job_id)
    return streams.answer(request, lambda: _seen(request, job_id))


def _seen(request: HttpRequest, job_id: UUID) -> streams.Seen:
    job = Job.objects.select_related("worker").filter(pk=job_id).first()
    if job is None:  # deleted while somebody looked
        return streams.Seen({"gone": ""}, last=True)
    life = render_to_string("jobs/_timeline.html", {"job": job, "moments": timeline(job)}, request)
    return streams.Seen({"life": life, "job": json.dumps(as_json(job), cls=ResultEncoder)}, last=not job.is_live)


@login_required
@require_POST
def cancel(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """A second time, or after the end, changes nothing and says so."""
    job = _visible_job(request, job_id)
    if not _may_cancel(request, job):
        raise PermissionDenied
    with transaction.atomic():
        state = ledger.cancel(job_id)
        if state == Job.State.RUNNING:
            messages.info(request, "It is running, and stops at its next checkpoint.")
        elif state == Job.State.CANCELLED and job.is_live:
            messages.success(request, "Cancelled. It will not run.")
        else:
            messages.info(request, "It had ended before, so there was nothing to cancel.")
            return redirect("job-status", job_id)
        if not _is_owner(request, job):
            LogEntry.objects.log_actions(request.user.pk or 0, [job], CHANGE, "Cancelled.", single_object=True)
    return redirect("job-status", job_id)


def as_json(job: Job) -> dict[str, Any]:
    """`error` is the last attempt's sentence, also while the job is still being retried."""
    progress = job.progress or {}
    done, total = progress.get("done", 0), progress.get("total")
    return {
        "id": job.pk,
        "task": job.task,
        "queue": job.queue,
        "state": job.state,
        "attempts": job.attempts,
        "retries": job.retries,
        "crashes": job.crashes,
        "run_at": job.run_at,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "done": done,
        "total": total,
        "percent": progress.get("percent"),
        "eta": progress.get("eta"),
        "note": progress.get("note", ""),
        "error": job.errors[-1]["message"] if job.errors else None,
        "finished": not job.is_live,
        "result": job.result,
    }


class ResultEncoder(DjangoJSONEncoder):
    """A result comes back from Celery's JSON as what it was. What a browser's JSON has no word for is told as text."""

    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except (TypeError, ValueError):  # bytes; a time with a time zone
            return str(o)


def _arguments(job: Job) -> str:
    """As they would be written in a call; sealed ones are shown as `***`."""
    positional = [repr(value) for value in mask(job.args)]
    named = [f"{name}={value!r}" for name, value in mask(job.kwargs).items()]
    return ", ".join(positional + named)


def _visible_job(request: HttpRequest, job_id: UUID) -> Job:
    job = Job.objects.select_related("worker").filter(pk=job_id).first()
    if job is None or not (_is_owner(request, job) or _may_look(request)):
        raise Http404
    return job


def _is_owner(request: HttpRequest, job: Job) -> bool:
    return job.owner_id is not None and job.owner_id == request.user.pk


def _may_look(request: HttpRequest) -> bool:
    return request.user.is_staff and request.user.has_perm("jobs.view_job")


def _may_cancel(request: HttpRequest, job: Job) -> bool:
    return _is_owner(request, job) or request.user.has_perm("jobs.cancel_job")


def _wants_json(request: HttpRequest) -> bool:
    if request.GET.get("format") == "json":
        return True
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"
