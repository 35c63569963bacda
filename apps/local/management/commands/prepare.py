"""`manage.py prepare`: `migrate` and `seed` in one process, because each start of Python costs the demo a second."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.local.ports import is_listening
from apps.local.waiting import wait_for


class Command(BaseCommand):
    help = "Bring an empty or older database up to date, and fill it with something to look at."
    requires_system_checks: list[str] = []

    def handle(self, **_: Any) -> None:
        call_command("migrate", verbosity=1)
        port = urlsplit(settings.AWS_ENDPOINT_URL or "").port
        # The pretended S3 was started at the same moment as this command.
        if port:
            wait_for(lambda: is_listening(port), 30)
        call_command("seed")
