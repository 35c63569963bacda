from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from apps.jobs.management.arguments import queues
from apps.jobs.work import Work


class Command(BaseCommand):
    help = "Runs jobs straight from the ledger, one at a time, with no broker, until SIGTERM. Run as many as you like."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--queues",
            type=queues,
            default=list(settings.JOBS_QUEUES),
            help="Comma-separated; a queue is served before those that stand after it. Default: all of them.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        Work(current_app, options["queues"]).run()
