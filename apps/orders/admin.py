from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.accounts.access import signed_in
from apps.jobs.admin.strict import StrictAdmin
from apps.orders.models import Customer, Order, OrderLine
from apps.orders.views import start_charge_again
from apps.payments.services import OrderNotChargeable

# A page of the list, so that whoever starts it has seen each: it is money. Each is a transaction of its own, too.
MOST_AT_ONCE = 100


@admin.register(Customer)
class CustomerAdmin(StrictAdmin):
    list_display = ("user", "stripe_customer", "payment_method")
    search_fields = ("user__username", "user__email", "stripe_customer")
    list_select_related = ("user",)
    autocomplete_fields = ("user",)


class OrderLineInline(admin.TabularInline[OrderLine, Order]):
    model = OrderLine
    extra = 0
    can_delete = False
    fields = readonly_fields = ("product", "sku", "quantity", "unit_price_minor", "amount")

    def has_add_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False


@admin.register(Order)
class OrderAdmin(StrictAdmin):
    list_display = ("number", "customer", "total", "status", "placed_at", "paid_at")
    list_filter = ("status", "currency", "placed_at")
    search_fields = ("number", "customer__user__username", "charges__payment_intent")
    list_select_related = ("customer__user",)
    date_hierarchy = "placed_at"
    inlines = (OrderLineInline,)
    actions = ("charge_again",)
    # What was ordered and paid is a record: it changes through the services only.
    readonly_fields = (
        "customer",
        "number",
        "total",
        "total_minor",
        "currency",
        "status",
        "placed_at",
        "paid_at",
        "request_key",
        "charge_job",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    @admin.action(description="Charge again (declined orders)", permissions=["change"])
    def charge_again(self, request: HttpRequest, orders: QuerySet[Order]) -> None:
        count = orders.count()
        if count > MOST_AT_ONCE:
            sentence = f"Nothing was done: {count:,} orders are chosen, and at most {MOST_AT_ONCE} are charged at once."
            self.message_user(request, sentence, messages.WARNING)
            return
        for order in orders:
            try:
                start_charge_again(order, by=signed_in(request))
            except OrderNotChargeable as error:
                self.message_user(request, str(error), messages.WARNING)
            else:
                self.message_user(request, f"{order.number} is being charged again.", messages.SUCCESS)
