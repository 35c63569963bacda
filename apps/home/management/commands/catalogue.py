from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from apps.home.catalogue import DOCUMENTS, filled


class Command(BaseCommand):
    help = "Write the tables of patterns and tasks into the documents, after one of them has changed in the code."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        for name in DOCUMENTS:
            path = settings.BASE_DIR / name
            before = path.read_text()
            after = filled(before, "../" * name.count("/"))
            path.write_text(after)
            self.stdout.write(f"{name:<18}{'unchanged' if after == before else 'written'}")
