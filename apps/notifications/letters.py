"""The mails that the shop can send: an allow-list, because a task's argument must not choose a file to render.

Each has a template `emails/<name>.html` and `.txt`.
"""

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.template.loader import render_to_string


class UnknownLetter(LookupError):
    """There is no mail of that name."""


@dataclass(frozen=True)
class Letter:
    """`about` is the model of the object that the mail is about, `owner` how it names the user it belongs to."""

    subject: str
    about: str = ""
    owner: str = ""


@dataclass(frozen=True)
class Written:
    subject: str
    text: str
    html: str


LETTERS = {
    "welcome": Letter("Welcome to Nightshift"),
    "reminder": Letter("You left something in your basket"),
    "password_reset": Letter("Choose a new password"),
    "order_paid": Letter("We have received your payment", about="orders.Order", owner="customer__user"),
    "report_ready": Letter("Your sales report", about="reports.Report", owner="owner"),
}


def write(name: str, user: User, context_id: int | None = None, **context: Any) -> Written:
    """Fill in a mail. Raises `UnknownLetter`, and `DoesNotExist` for an object that is not there or not this user's."""
    if name not in LETTERS:
        raise UnknownLetter(f"There is no mail called {name}.")
    letter = LETTERS[name]
    if letter.about:
        context["about"] = apps.get_model(letter.about).objects.get(pk=context_id, **{letter.owner: user})
    context |= {"user": user, "name": user.first_name or user.get_username(), "site": settings.SITE_URL}
    text, html = (render_to_string(f"emails/{name}.{kind}", context) for kind in ("txt", "html"))
    return Written(letter.subject, text, html)
