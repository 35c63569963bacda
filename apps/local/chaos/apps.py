from importlib import import_module

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "apps.local.chaos"
    label = "chaos"

    def ready(self) -> None:
        import_module("apps.local.chaos.tasks")
        import_module("apps.local.chaos.sabotage").apply()
