"""The catalogue in the browser, and its button that tells the supplier."""

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

import tasks
from apps.accounts.access import member_of_staff
from apps.catalog.models import Product
from apps.jobs.task import is_new

PRODUCTS_A_PAGE = 50
# In the product's history.
PUSHED = "Push to the supplier started."


@login_required
@require_GET
@never_cache
def products(request: HttpRequest) -> HttpResponse:
    page = Paginator(Product.objects.all(), PRODUCTS_A_PAGE).get_page(request.GET.get("page"))
    return render(request, "catalog/list.html", {"page": page})


@login_required
@require_POST
def push(request: HttpRequest, product_id: int) -> HttpResponseBase:
    user = member_of_staff(request, "catalog.change_product")
    product = get_object_or_404(Product, pk=product_id)
    with transaction.atomic():
        job = tasks.sync_to_external_api.delay(record_id=product.pk)
        if is_new(job):  # else a push was waiting already, and nothing has changed
            LogEntry.objects.log_actions(user.pk, [product], CHANGE, PUSHED)
    return redirect("job-status", job.id)


@login_required
@require_POST
def pull(request: HttpRequest) -> HttpResponseBase:
    member_of_staff(request, "catalog.change_product")
    tasks.sync_external_data.delay()
    messages.success(request, "The supplier is being asked what has changed.")
    return redirect("catalog:list")
