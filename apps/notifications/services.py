"""Mail to the shop's users, once each."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User

from apps.notifications.letters import Written, write
from apps.notifications.models import SentMail
from apps.notifications.post import post

# No job is delivered a second time after so long: dead letters are kept for 90 days, and may be replayed until then.
KEEP = timedelta(days=100)


def send(key: str, user_id: int, template: str, context_id: int | None = None, **context: Any) -> bool:
    """Send one mail, unless one with this key was sent. Returns whether it went out now.

    At least once, not exactly: if the process dies between the mail server's 250 and the row below, or if two of them
    send at the same moment, the mail goes out twice, with one Message-ID. Noting it first would instead lose it.
    """
    if SentMail.objects.filter(key=key).exists():
        return False
    user = User.objects.get(pk=user_id)
    _post(key, user, write(template, user, context_id, **context))
    SentMail.objects.bulk_create([SentMail(key=key, user=user, template=template)], ignore_conflicts=True)
    return True


def forget_old_mail(now: datetime) -> int:
    """Delete the record of mail that can no longer be sent twice. Returns how many; run again, it finds none."""
    return SentMail.objects.filter(sent_at__lt=now - KEEP).delete()[0]


def _post(key: str, user: User, written: Written) -> None:
    post(key, user.email, written.subject, written.text, written.html)
