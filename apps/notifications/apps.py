from django.apps import AppConfig
from django.core.checks import Tags, register

from apps.notifications.checks import mail_reaches_people


class NotificationsConfig(AppConfig):
    name = "apps.notifications"
    label = "notifications"

    def ready(self) -> None:
        register(mail_reaches_people, Tags.security, deploy=True)
