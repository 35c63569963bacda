from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand

from apps.jobs.relay import Relay


class Command(BaseCommand):
    help = "Moves due jobs from the ledger to the broker, until SIGTERM. Run as many as you like."

    def handle(self, *args: Any, **options: Any) -> None:
        Relay(current_app).run()
