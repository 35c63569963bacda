"""Money is looked at here, and never edited: it changes through the services only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from apps.accounts.record_admin import RecordAdmin
from apps.payments.models import Charge, Refund, WebhookEvent


class MoneyAdmin(RecordAdmin):
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Charge)
class ChargeAdmin(MoneyAdmin):
    list_display = ("order", "number", "amount", "status", "decline_code", "recorded_at", "settled_at")
    list_filter = ("status", "historic", "currency", "recorded_at")
    search_fields = ("order__number", "payment_intent", "order__customer__user__username")
    list_select_related = ("order",)
    date_hierarchy = "recorded_at"


@admin.register(Refund)
class RefundAdmin(MoneyAdmin):
    list_display = ("charge", "amount", "status", "stripe_refund", "recorded_at", "settled_at")
    list_filter = ("status", "currency", "recorded_at")
    search_fields = ("charge__order__number", "stripe_refund", "charge__payment_intent")
    list_select_related = ("charge__order",)


@admin.register(WebhookEvent)
class WebhookEventAdmin(MoneyAdmin):
    list_display = ("event_id", "type", "outcome", "received_at")
    list_filter = ("type", "received_at")
    search_fields = ("event_id", "payment_intent", "outcome")
    date_hierarchy = "received_at"
