"""Who may see how the installation is doing: staff, and whoever shows the token that Prometheus has."""

from django.conf import settings
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from apps.jobs import connections


def is_insider(request: HttpRequest) -> bool:
    """While the database is away, or has no tables, nobody can be known by a session."""
    if _shows_token(request):
        return True
    try:
        return bool(request.user.is_active and request.user.is_staff)
    except connections.UNREADABLE:
        return False


def _shows_token(request: HttpRequest) -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return (
        bool(settings.METRICS_TOKEN)
        and scheme.lower() == "bearer"
        and constant_time_compare(token, settings.METRICS_TOKEN)
    )
