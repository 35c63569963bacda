"""Times and queues as a person types them."""

import argparse
import re
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(text: str) -> timedelta:
    """`90s`, `10m`, `2h`, `7d`."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 90s, 10m, 2h or 7d.")
    return timedelta(seconds=int(match[1]) * SECONDS[match[2]])


def something(text: str) -> str:
    """Not the value of a shell's variable that was never set, which would narrow down nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty. Leave the option out to mean all.")
    return text


def number(text: str) -> int:
    """Of rows: PostgreSQL counts none below zero."""
    if re.fullmatch(r"\d{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows: write 50.")
    return int(text)


def moment(text: str) -> datetime | None:
    """A date and time as 2026-02-05T09:00; without a zone it is in the project's own."""
    try:
        parsed = parse_datetime(text)
    except ValueError:
        return None
    if parsed is None or not timezone.is_naive(parsed):
        return parsed
    return timezone.make_aware(parsed)


def past(text: str) -> datetime:
    """A moment, or how long ago: `2h`."""
    try:
        return moment(text) or timezone.now() - duration(text)
    except OverflowError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} ago there was no calendar.") from exc


def future(text: str) -> datetime:
    """A moment that is still to come, or in how long: `2h`."""
    at = moment(text) or timezone.now() + duration(text)
    if at <= timezone.now():
        raise argparse.ArgumentTypeError(f"{text!r} is over already: a time without a zone is in UTC.")
    return at


def queues(text: str) -> list[str]:
    """`high,default`, in this order."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in settings.JOBS_QUEUES:
            raise argparse.ArgumentTypeError(
                f"There is no queue {name!r}. There are: {', '.join(settings.JOBS_QUEUES)}."
            )
    return names
