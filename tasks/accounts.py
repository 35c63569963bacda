from datetime import timedelta
from typing import Any

from celery import shared_task

from apps.accounts import services
from tasks.policies import MAIL


# Somebody waits in front of the screen: queue high. One mail in two minutes is as often as anybody may ask for one.
@shared_task(bind=True, unique=("user_id",), unique_for=timedelta(minutes=2), **MAIL)
def critical_password_reset(self: Any, *, user_id: int) -> None:
    """Mail a user the link to choose a new password.

    Safe to run twice: the job's id is the mail's key, and every link works until the password is changed.
    """
    services.send_password_reset(self.request.id, user_id)
