from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand, CommandParser

from apps.jobs.management.arguments import queues
from apps.jobs.relay import Relay


class Command(BaseCommand):
    help = "Moves due jobs from the ledger to the broker, until SIGTERM. Run as many as you like."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--queues", type=queues, help="Only these, comma-separated. The others are for `work`.")

    def handle(self, *args: Any, **options: Any) -> None:
        Relay(current_app, options["queues"] or ()).run()
