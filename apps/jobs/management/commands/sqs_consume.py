from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.module_loading import import_string

from apps.jobs.sqs import NoDeadLetterQueue
from apps.jobs.sqs_consumer import SqsConsumer


class Command(BaseCommand):
    help = "Handles the messages of an SQS queue, until SIGTERM. Run as many as you like."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", choices=settings.JOBS_SQS_HANDLERS)

    def handle(self, *args: Any, queue: str, **options: Any) -> None:
        try:
            SqsConsumer(queue, import_string(settings.JOBS_SQS_HANDLERS[queue])).run()
        except NoDeadLetterQueue as exc:
            raise CommandError(str(exc)) from exc
