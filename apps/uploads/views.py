from datetime import timedelta

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_http_methods

import tasks
from apps.accounts.access import member_of_staff, signed_in
from apps.jobs.models import Job
from apps.uploads import bucket
from apps.uploads.answers import answer_with_file
from apps.uploads.files import store
from apps.uploads.forms import UploadForm
from apps.uploads.imports import LONG
from apps.uploads.limits import refuses_large_bodies
from apps.uploads.models import Upload
from apps.uploads.pictures import MAX_THUMBNAIL_BYTES, THUMBNAIL_SIDES, thumbnail_key

# The newest that a page shows.
SHOWN = 50
# A list in parts has no one job to follow, so its page asks again by itself; but one left open does not ask for ever.
REFRESH_SECONDS = "2"
REFRESH_FOR = timedelta(minutes=10)


@login_required
@require_GET
@never_cache
def uploads(request: HttpRequest) -> HttpResponse:
    own = Upload.objects.filter(owner=signed_in(request))[:SHOWN]
    return render(request, "uploads/list.html", {"uploads": own})


@login_required
@require_GET
@never_cache
def detail(request: HttpRequest, upload_id: int) -> HttpResponse:
    upload = get_object_or_404(Upload, pk=upload_id, owner=signed_in(request))
    work = _work(upload)
    response = render(request, "uploads/detail.html", {"upload": upload, "sides": THUMBNAIL_SIDES, "work": work})
    if work == "parts" and timezone.now() < upload.created_at + REFRESH_FOR:
        response["Refresh"] = REFRESH_SECONDS
    return response


def _work(upload: Upload) -> str:
    """Say what is going on with an upload: nothing more (settled), one job, many parts, or a job that died."""
    if upload.is_settled:
        return "settled"
    if Job.objects.filter(pk=upload.job_id, state__in=Job.LIVE).exists():
        return "job"
    return "parts" if upload.parts.exists() else "stopped"


@login_required
@require_GET
def thumbnail(request: HttpRequest, upload_id: int, side: int) -> HttpResponse:
    upload = get_object_or_404(Upload, pk=upload_id, owner=signed_in(request), kind=Upload.Kind.PICTURE)
    if side not in THUMBNAIL_SIDES:
        raise Http404
    key, headers = thumbnail_key(upload.key, side), {"Cache-Control": "private, max-age=3600"}
    return answer_with_file(request, key, at_most=MAX_THUMBNAIL_BYTES, content_type="image/webp", headers=headers)


# Exempt on the outside, checked on the inside: what comes between refuses a body before the check reads it.
@csrf_exempt
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@refuses_large_bodies
@csrf_protect
@never_cache
def new(request: HttpRequest) -> HttpResponseBase:
    owner = member_of_staff(request)
    if request.method != "POST":
        return render(request, "uploads/new.html", {"form": UploadForm()})
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return render(request, "uploads/new.html", {"form": form}, status=422)
    file = form.cleaned_data["file"]
    # A list overwrites names, prices and stock, so it wants what the admin wants for changing a single product.
    if form.kind == Upload.Kind.CSV and not owner.has_perm("catalog.change_product"):
        form.add_error("file", "A product list changes products, which your account may not do. Nothing was stored.")
        return render(request, "uploads/new.html", {"form": form}, status=403)
    try:
        upload = store(owner, form.kind, file.name, file)
    except bucket.BucketUnavailable as error:
        form.add_error("file", f"{error} Please try again in a minute.")
        return render(request, "uploads/new.html", {"form": form}, status=503)
    start(upload)
    return redirect("uploads:detail", upload.pk)


def start(upload: Upload) -> None:
    """Save an upload together with its job, or neither."""
    is_long_list = upload.kind == Upload.Kind.CSV and upload.lines > LONG
    task = tasks.batch_import_products if is_long_list else tasks.process_upload
    with transaction.atomic():
        upload.save()
        task.apply_async(kwargs={"upload_id": upload.pk}, task_id=str(upload.job_id))
