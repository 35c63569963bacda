import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connections

from config.body_limit import BodyLimit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


def limited_application() -> BodyLimit:
    """An upload is the largest thing that the shop takes, and its limit can be read once Django has loaded the apps."""
    django = get_asgi_application()
    from apps.uploads.limits import MAX_BODY_BYTES

    return BodyLimit(django, MAX_BODY_BYTES)


application = limited_application()

# Each request has a thread of its own here, so a connection that stayed with its thread would serve one request. Not in
# the settings: they are those of workers too, and a pool does not survive their fork.
if settings.DATABASE_POOL:
    _database = connections.settings["default"]
    _database["CONN_MAX_AGE"] = 0
    # One that has to wait for longer than a new connection may take finds a database that is too busy to help.
    _database["OPTIONS"]["pool"] = {"min_size": 1, "max_size": settings.DATABASE_POOL, "timeout": 5}
