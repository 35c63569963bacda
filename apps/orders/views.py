"""Orders in the browser. Each view that starts a job writes the order and the job in one transaction, or neither.

Who did it goes into the order's history in the admin, in that same transaction: the job, which knows too, is gone after
a week. What changed nothing leaves no line there.
"""

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

import tasks
from apps.accounts.access import member_of_staff, signed_in
from apps.catalog.models import Product
from apps.jobs.models import Job
from apps.jobs.task import is_new
from apps.orders import services
from apps.orders.forms import MOST_LINES, PlaceOrderForm
from apps.orders.models import Order
from apps.orders.services import CannotCancel, CannotPlaceOrder
from apps.payments.refunds import NothingToRefund, record_refund_intent
from apps.payments.services import OrderNotChargeable, charge_again

ORDERS_A_PAGE = 50
# Lines that the form offers: no product yet, and one of it.
LINES_OFFERED = [("", "1")] * 3
# Products that it offers: 15 kB, whatever the size of the catalog. Any other is ordered by typing its sku.
PRODUCTS_OFFERED = 200


@login_required
@require_GET
@never_cache
def orders(request: HttpRequest) -> HttpResponse:
    page = Paginator(_visible(request), ORDERS_A_PAGE).get_page(request.GET.get("page"))
    return render(request, "orders/list.html", {"page": page})


@login_required
@require_GET
@never_cache
def detail(request: HttpRequest, order_id: int) -> HttpResponse:
    order = get_object_or_404(_visible(request), pk=order_id)
    context = {
        "order": order,
        "lines": order.lines.select_related("product"),
        "charges": order.charges.select_related("refund"),
        "job": Job.objects.filter(pk=order.charge_job).first() if order.charge_job else None,
    }
    return render(request, "orders/detail.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def place(request: HttpRequest) -> HttpResponseBase:
    user = member_of_staff(request, "orders.add_order")
    if request.method != "POST":
        return _form(request, PlaceOrderForm())
    form = PlaceOrderForm(request.POST)
    if not form.is_valid():
        return _form(request, form, status=422)
    try:
        order = _place_and_charge(form, by=user)
    except CannotPlaceOrder as error:
        form.add_error(None, str(error))
        return _form(request, form, status=422)
    return redirect("orders:detail", order.pk)


@login_required
@require_POST
def retry_charge(request: HttpRequest, order_id: int) -> HttpResponseBase:
    user = member_of_staff(request, "orders.change_order")
    order = get_object_or_404(Order, pk=order_id)
    try:
        start_charge_again(order, by=user)
    except OrderNotChargeable as error:
        return _refused(request, str(error))
    return redirect("orders:detail", order_id)


@login_required
@require_POST
def refund(request: HttpRequest, order_id: int) -> HttpResponseBase:
    user = member_of_staff(request, "orders.change_order")
    order = get_object_or_404(Order, pk=order_id)
    charge = order.charges.order_by("-number").first()
    if charge is None:
        return _refused(request, f"Order {order.number} has not been charged, so there is nothing to refund.")
    try:
        with transaction.atomic():
            record_refund_intent(charge.pk)
            job = tasks.refund_charge.delay(charge_id=charge.pk)
            if is_new(job):
                LogEntry.objects.log_actions(user.pk, [order], CHANGE, f"Refund of {charge.amount} started.")
    except NothingToRefund as error:
        return _refused(request, str(error))
    return redirect("orders:detail", order_id)


@login_required
@require_POST
def cancel(request: HttpRequest, order_id: int) -> HttpResponseBase:
    user = member_of_staff(request, "orders.change_order")
    get_object_or_404(Order, pk=order_id)
    try:
        with transaction.atomic():
            order = services.cancel_order(order_id)
            LogEntry.objects.log_actions(user.pk, [order], CHANGE, "Cancelled.")
    except CannotCancel as error:
        return _refused(request, str(error))
    return redirect("orders:detail", order_id)


def start_charge(order_id: int) -> None:
    """Call it in the transaction that wrote the order or its charge; the order then knows its job.

    Raises OrderNotChargeable while the order's last job lives: that job may be past the point where it would see a
    new charge, which nobody would then work on.
    """
    job = tasks.charge_customer.delay(order_id=order_id)
    if not is_new(job):
        raise OrderNotChargeable("The order's last attempt is still ending. Try again in a moment.")
    Order.objects.filter(pk=order_id).update(charge_job=job.id)


@transaction.atomic
def start_charge_again(order: Order, by: User) -> None:
    """For a declined order. Raises OrderNotChargeable, as `start_charge` does."""
    charge_again(order.pk)
    start_charge(order.pk)
    LogEntry.objects.log_actions(by.pk, [order], CHANGE, f"Charge of {order.total} started again.")


@transaction.atomic
def _place_and_charge(form: PlaceOrderForm, by: User) -> Order:
    asked = form.cleaned_data
    order = services.place_order(asked["customer"], asked["lines"], request_key=asked["request_key"])
    if order.charge_job is None:
        start_charge(order.pk)
        LogEntry.objects.log_actions(by.pk, [order], ADDITION, f"Placed, and its charge of {order.total} started.")
    return order


def _visible(request: HttpRequest) -> QuerySet[Order]:
    """Staff see every order, a customer their own."""
    user = signed_in(request)
    orders = Order.objects.select_related("customer__user")
    return orders if user.is_staff else orders.filter(customer__user=user)


def _form(request: HttpRequest, form: PlaceOrderForm, status: int = 200) -> HttpResponse:
    products = list(Product.objects.filter(active=True)[: PRODUCTS_OFFERED + 1])
    sent = list(zip(request.POST.getlist("sku"), request.POST.getlist("quantity"), strict=False))
    context = {
        "form": form,
        "products": products[:PRODUCTS_OFFERED],
        "has_more": len(products) > PRODUCTS_OFFERED,
        "lines": sent[:MOST_LINES] or LINES_OFFERED,
    }
    return render(request, "orders/place.html", context, status=status)


def _refused(request: HttpRequest, sentence: str) -> HttpResponse:
    return render(request, "orders/refused.html", {"sentence": sentence}, status=409)
