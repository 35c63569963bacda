from typing import Any

from django.http import HttpRequest

from apps.jobs.admin.strict import StrictAdmin


class RecordAdmin(StrictAdmin):
    """For rows that say what happened: they can be looked at and deleted, not invented or rewritten."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
