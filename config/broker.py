"""From the broker's URL to kombu's transport options, each with its reason."""

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from config.env import env


def broker_transport_options(url: str) -> dict[str, Any]:
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss"):
        return {
            # What a killed worker had fetched but not started comes back after this many seconds. It may be short:
            # no countdown waits in the broker, and the claim drops the second message of a job that runs for longer.
            "visibility_timeout": env.int("BROKER_VISIBILITY_SECONDS", 60),
            # kombu looks for such messages every 10 × 10 polls by default, which adds up to 100 s.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            # … under a lock. A worker that asked for it while the broker was frozen gave up, and the broker granted it
            # to nobody when it woke: by default nothing would come back for the 300 s until that lock expires.
            "unacked_mutex_expire": 10,
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
