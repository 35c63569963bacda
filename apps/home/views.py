"""The home page: what each pattern is for, two buttons to see it, and what came of pressing them.

Each view answers with a whole page, or with only the piece that changed when the page's script asks for it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from apps.accounts.access import member_of_staff
from apps.home.act import Act, CannotPlay, Seen, jobs_of
from apps.home.patterns import CHAPTERS, Pattern, find
from apps.home.pulse import pulse as take_pulse
from apps.jobs.backpressure import QueueFull
from apps.jobs.models import DeadLetter

# A card has room for this many jobs; the rest is told as a sum.
SHOWN_JOBS = 4


@login_required
@require_GET
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    context = {
        "chapters": CHAPTERS,
        "pulse": take_pulse(),
        "sandbox": settings.SANDBOX,
        "flower": settings.FLOWER_URL,
    }
    return render(request, "home/home.html", context)


@login_required
@require_GET
@never_cache
def pulse(request: HttpRequest) -> HttpResponse:
    return render(request, "home/_pulse.html", {"pulse": take_pulse()})


@login_required
@require_POST
def play(request: HttpRequest, slug: str, act: str) -> HttpResponseBase:
    pattern, chosen = _find(slug, act)
    user = _player(request)
    try:
        started = chosen.start(user)
    except QueueFull as full:
        response = _refuse(request, pattern, 503, f"{full} Nothing was written. Try again in {full.retry_after} s.")
        response["Retry-After"] = str(full.retry_after)
        return response
    except CannotPlay as sorry:
        return _refuse(request, pattern, 409, str(sorry))
    if _wants_piece(request):
        context = {"did": started.did, **_outcome(pattern, act, chosen, started.jobs)}
        return render(request, "home/_started.html", context)
    messages.info(request, started.did)
    return redirect(_seen_url(pattern, act, started.jobs))


@login_required
@require_GET
@never_cache
def seen(request: HttpRequest, slug: str, act: str) -> HttpResponse:
    pattern, chosen = _find(slug, act)
    _player(request)
    outcome = _outcome(pattern, act, chosen, _asked_ids(request))
    return render(request, "home/_seen.html" if _wants_piece(request) else "home/seen.html", outcome)


def _find(slug: str, act: str) -> tuple[Pattern, Act]:
    pattern = find(slug)
    if pattern is None or act not in ("run", "break"):
        raise Http404
    return pattern, pattern.run if act == "run" else pattern.break_


def _player(request: HttpRequest) -> User:
    user = member_of_staff(request)
    if not settings.SANDBOX:
        raise PermissionDenied("These buttons charge cards and break things, so they work with the sandbox only.")
    return user


def _asked_ids(request: HttpRequest) -> list[UUID]:
    try:
        return [UUID(job) for job in request.GET.getlist("job")]
    except ValueError:
        raise Http404 from None


def _outcome(pattern: Pattern, name: str, act: Act, ids: Sequence[UUID]) -> dict[str, Any]:
    jobs = jobs_of(list(dict.fromkeys(ids)))  # a refused duplicate names the same job again
    verdict = _verdict(act, ids)
    letters = dict(DeadLetter.objects.filter(job_id__in=ids).values_list("job_id", "pk"))
    return {
        "pattern": pattern,
        "seen": verdict,
        "jobs": [(job, letters.get(job.pk)) for job in jobs[:SHOWN_JOBS]],
        "others": Counter(job.state for job in jobs[SHOWN_JOBS:]).most_common(),
        "others_count": max(len(jobs) - SHOWN_JOBS, 0),
        "again": _seen_url(pattern, name, ids) if verdict.held is None else None,
    }


def _verdict(act: Act, ids: Sequence[UUID]) -> Seen:
    try:
        return act.seen(ids)
    except CannotPlay as sorry:
        return Seen(str(sorry))
    except (LookupError, ValueError, ObjectDoesNotExist):
        # An address made by hand, or what the act made was deleted since.
        return Seen("These are not the jobs of this button, or what they made is gone.", held=False)


def _seen_url(pattern: Pattern, act: str, ids: Sequence[UUID]) -> str:
    return f"{reverse('seen', args=[pattern.slug, act])}?{urlencode([('job', str(job_id)) for job_id in ids])}"


def _refuse(request: HttpRequest, pattern: Pattern, status: int, sentence: str) -> HttpResponse:
    template = "home/_refused.html" if _wants_piece(request) else "home/refused.html"
    return render(request, template, {"pattern": pattern, "sentence": sentence}, status=status)


def _wants_piece(request: HttpRequest) -> bool:
    return "X-Piece" in request.headers
