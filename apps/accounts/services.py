"""People: who may ask for a new password, and the link that lets them choose one."""

from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.tokens import default_token_generator
from django.contrib.sessions.models import Session
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from apps.notifications.services import send


def users_to_reset(email: str) -> list[User]:
    """Return whose passwords may be reset by mail: every active user of this address who has one."""
    users = User.objects.filter(email__iexact=email, is_active=True).order_by("pk")
    return [user for user in users if user.has_usable_password()]


def send_password_reset(key: str, user_id: int) -> None:
    """Mail the link to choose a new password. The token is made here, at the last moment, so none sits in a queue."""
    user = User.objects.get(pk=user_id, is_active=True)
    send(key, user_id, "password_reset", link=_link(user))


def forget_old_sessions(now: datetime) -> int:
    """Delete expired sessions. Returns how many; run again, it finds none."""
    return Session.objects.filter(expire_date__lt=now).delete()[0]


def _link(user: User) -> str:
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = default_token_generator.make_token(user)
    return f"{settings.SITE_URL}{reverse('password_reset_confirm', args=(uid, token))}"
