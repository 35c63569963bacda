"""What `manage.py check --deploy` says of the mail of a server. Nothing refuses to start for it."""

from typing import Any

from django.conf import settings
from django.core import checks

PRINTS = "django.core.mail.backends.console.EmailBackend"

MAIL_IS_PRINTED = checks.Warning(
    "Mails are printed, and nobody gets them: EMAIL_URL is not set, or is consolemail://.",
    hint=(
        "Set EMAIL_URL to a mail server (smtp+tls://user:password@host:587). Until then whoever reads what the workers "
        "print reads the link of every password reset, which signs in."
    ),
    id="notifications.W001",
)


def mail_reaches_people(**_: Any) -> list[checks.CheckMessage]:
    return [MAIL_IS_PRINTED] if settings.EMAIL_BACKEND == PRINTS else []
