from django.contrib import admin

from apps.accounts.record_admin import RecordAdmin
from apps.reports.models import Report


@admin.register(Report)
class ReportAdmin(RecordAdmin):
    list_display = ("id", "owner", "start", "end", "state", "created_at", "job_id")
    list_filter = ("state", "created_at")
    search_fields = ("owner__username", "job_id")
    list_select_related = ("owner",)
    date_hierarchy = "created_at"
