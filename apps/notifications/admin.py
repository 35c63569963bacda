from django.contrib import admin

from apps.accounts.record_admin import RecordAdmin
from apps.notifications.models import SentMail


@admin.register(SentMail)
class SentMailAdmin(RecordAdmin):
    list_display = ("template", "user", "key", "sent_at")
    list_filter = ("template", "sent_at")
    search_fields = ("key", "user__username", "user__email")
    list_select_related = ("user",)
