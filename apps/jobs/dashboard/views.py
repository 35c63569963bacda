"""The dashboard's page, and the stream that keeps it fresh."""

import json

from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from apps.jobs import streams
from apps.jobs.dashboard.charts import SPANS, Span
from apps.jobs.dashboard.snapshot import look


@login_required
@permission_required("jobs.view_job", raise_exception=True)
@require_GET
@never_cache
def dashboard(request: HttpRequest) -> HttpResponseBase:
    span = _span(request)
    pieces = look(span)
    if request.GET.get("format") == "json":
        return JsonResponse(pieces | {"charts": json.loads(pieces["charts"])})
    context = {"pieces": pieces, "spans": SPANS.values(), "span": span, "flower": settings.FLOWER_URL}
    return render(request, "jobs/dashboard/dashboard.html", context)


@login_required
@permission_required("jobs.view_job", raise_exception=True)
@require_GET
def events(request: HttpRequest) -> HttpResponseBase:
    span = _span(request)
    return streams.answer(request, lambda: streams.Seen(look(span)))


def _span(request: HttpRequest) -> Span:
    try:
        return SPANS[request.GET.get("over", "hour")]
    except KeyError:
        raise Http404 from None
