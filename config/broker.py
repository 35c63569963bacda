"""From the broker's URL to kombu's transport options, each with its reason."""

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured


def broker_transport_options(url: str) -> dict[str, Any]:
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss"):
        return {
            # No countdown ever waits in the broker and a job's lease is renewed while it runs, so a message that is
            # not acknowledged for two minutes belongs to a dead worker. The claim drops it if that was wrong.
            "visibility_timeout": 120,
            # kombu looks for such messages every 10 × 10 polls by default, which adds up to 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # A frozen broker must raise within seconds: without these a publish blocks for ever.
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
        }
    if scheme == "memory":
        return {}
    raise ImproperlyConfigured(
        f"CELERY_BROKER_URL starts with {scheme!r}, which Nightshift does not know. Use redis:// or rediss://."
    )
