from django.contrib import admin

from apps.accounts.record_admin import RecordAdmin
from apps.uploads.models import Upload


@admin.register(Upload)
class UploadAdmin(RecordAdmin):
    list_display = ("id", "owner", "kind", "original_name", "size", "state", "imported", "rejected", "created_at")
    list_filter = ("state", "kind", "created_at")
    search_fields = ("original_name", "owner__username", "sha256", "job_id")
    list_select_related = ("owner",)
    date_hierarchy = "created_at"
