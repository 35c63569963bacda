import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Each request has a thread of its own here, so a connection that stayed with its thread would serve one request.
os.environ.setdefault("DATABASE_POOL", "10")
application = get_asgi_application()
