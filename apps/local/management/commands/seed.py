"""`manage.py seed`: something to look at."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand

from apps.local.places import kept_secret
from config.env import env


class Command(BaseCommand):
    help = "Fill the shop with its cast, its products and some history. Running it again changes nothing."

    def handle(self, **_: Any) -> None:
        """In the order of INSTALLED_APPS, in which each shop app follows the ones it builds upon."""
        create_superuser()
        for config in apps.get_app_configs():
            if config.name.startswith("apps.") and find_spec(f"{config.name}.seed"):
                import_module(f"{config.name}.seed").seed()
                self.stdout.write(f"{config.label} is seeded")


def create_superuser() -> None:
    if not User.objects.filter(username="admin").exists():
        password = env.str("ADMIN_PASSWORD", "") or kept_secret("admin")
        User.objects.create_superuser("admin", "admin@nightshift.example", password)
