from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

import tasks
from apps.accounts.access import signed_in
from apps.catalog.models import Product, SupplierChange, SupplierCursor
from apps.catalog.views import PUSHED
from apps.jobs.admin.strict import StrictAdmin
from apps.jobs.clock import database_now
from apps.jobs.models import Job

# What the supplier takes in a minute (tasks/catalog.py); more would keep everything else from it.
MOST_AT_ONCE = 3_000


@admin.register(Product)
class ProductAdmin(StrictAdmin):
    list_display = ("sku", "name", "price", "stock", "active", "supplier_version", "synced_at")
    list_filter = ("active", "currency", "synced_at")
    search_fields = ("sku", "name")
    # The supplier's side of a product is written by its jobs; an edit here would be undone by the next one.
    readonly_fields = ("stock", "supplier_version", "synced_at", "created_at", "updated_at")
    actions = ("push_to_supplier",)

    @admin.action(description="Push to the supplier", permissions=["change"])
    def push_to_supplier(self, request: HttpRequest, products: QuerySet[Product]) -> None:
        chosen = list(products[: MOST_AT_ONCE + 1])
        if len(chosen) > MOST_AT_ONCE:
            sentence = f"Nothing was done: at most {MOST_AT_ONCE:,} products are pushed at once. Filter the list first."
            self.message_user(request, sentence, messages.WARNING)
            return
        with transaction.atomic():
            asked_at = database_now()
            jobs = tasks.sync_to_external_api.delay_many({"record_id": product.pk} for product in chosen)
            # What was waiting already stays as it is, and is not written down as a new act.
            waiting = set(Job.objects.filter(pk__in=jobs, created_at__lt=asked_at).values_list("pk", flat=True))
            pushed = [product for product, job in zip(chosen, jobs, strict=True) if UUID(job) not in waiting]
            LogEntry.objects.log_actions(signed_in(request).pk, pushed, CHANGE, PUSHED)
        self.message_user(request, f"{len(jobs)} products are being pushed.", messages.SUCCESS)


@admin.register(SupplierChange)
class SupplierChangeAdmin(StrictAdmin):
    list_display = ("sku", "version", "received_at", "applied_at")
    list_filter = ("received_at", ("applied_at", admin.EmptyFieldListFilter))
    search_fields = ("sku", "version")
    readonly_fields = ("sku", "version", "fields", "received_at", "applied_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(SupplierCursor)
class SupplierCursorAdmin(StrictAdmin):
    list_display = ("feed", "value", "updated_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
