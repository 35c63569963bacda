"""A Django app that breaks what `SABOTAGE` names: after the machinery is loaded, and before anything runs."""

import os

from django.apps import AppConfig


class Sabotaged(AppConfig):
    name = "tests.brokers"
    label = "sabotaged"

    def ready(self) -> None:
        """What the settings break (sabotaged.py) has no entry here."""
        from tests.brokers.sabotage import BREAK

        BREAK.get(os.environ["SABOTAGE"], lambda: None)()
