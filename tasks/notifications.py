from typing import Any

from celery import shared_task

from apps.notifications import services
from tasks.policies import MAIL


@shared_task(bind=True, **MAIL)
def send_email(self: Any, *, user_id: int, template: str, context_id: int | None = None) -> None:
    """Send one of the shop's mails, about one of the user's own objects where the mail needs one.

    Safe to run twice: the job's id is the mail's key, and a key is sent once (see `services.send` for the exception).
    """
    services.send(self.request.id, user_id, template, context_id)


@shared_task(unique=("user_id",), **MAIL)
def send_welcome_email(*, user_id: int) -> None:
    """Welcome a user: at most one live job a user, and one mail a user for ever.

    Safe to run twice: the mail's key is the user.
    """
    services.send(f"welcome:{user_id}", user_id, "welcome")


@shared_task(bind=True, **MAIL)
def send_reminder(self: Any, *, user_id: int) -> None:
    """Remind a user of the basket; the caller says how much later with `countdown=`.

    Safe to run twice: the job's id is the mail's key.
    """
    services.send(self.request.id, user_id, "reminder")
