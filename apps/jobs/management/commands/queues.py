from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from apps.jobs import queues
from apps.jobs.management.arguments import future
from apps.jobs.management.operator import OperatorCommand
from apps.jobs.management.text import age, table
from apps.jobs.models import QueuePause


class Command(OperatorCommand):
    help = "Shows what waits in each queue; pauses and resumes a queue."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="pause | resume")
        pause = actions.add_parser("pause", help="Send no more of this queue's jobs to workers. Running ones go on.")
        pause.add_argument("queue")
        pause.add_argument("--reason", required=True, help="For the next person who asks.")
        pause.add_argument("--until", type=future, help="Resume by itself: 2h, or 2026-02-05T09:00 (UTC).")
        resume = actions.add_parser("resume", help="Send them again, at once.")
        resume.add_argument("queue")

    def handle(self, *args: Any, action: str | None = None, **options: Any) -> None:
        if action == "pause":
            self._pause(options["queue"], options["reason"], options["until"])
        elif action == "resume":
            self._resume(options["queue"])
        self._show()

    def _pause(self, queue: str, reason: str, until: Any) -> None:
        try:
            queues.pause(queue, reason, until)
        except ValueError as exc:
            raise CommandError(str(exc)) from exc

    def _resume(self, queue: str) -> None:
        if not queues.resume(queue):
            raise CommandError(f"The queue {queue!r} is not paused.")

    def _show(self) -> None:
        pauses = QueuePause.objects.filter(Q(until=None) | Q(until__gt=timezone.now())).in_bulk()
        rows = [_row(status, pauses.get(status.name)) for status in queues.statuses()]
        self.stdout.write(table(("QUEUE", "WAITING", "OLDEST", "LATER", "RUNNING", "PAUSED"), rows))


def _row(status: queues.QueueStatus, pause: QueuePause | None) -> list[Any]:
    oldest = "" if status.oldest is None else age(status.oldest)
    return [status.name, status.waiting, oldest, status.later, status.running, _pause(pause)]


def _pause(pause: QueuePause | None) -> str:
    if pause is None:
        return ""
    end = f"until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else "until resumed"
    return f"{end}: {pause.reason}"
