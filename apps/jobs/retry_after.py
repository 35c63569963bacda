"""What an upstream's `Retry-After` asks for.

Problem. The header is seconds or a date, by RFC 9110, and it comes from outside: it may be garbage, in the past, or a
year away.

Guarantee. The answer is a number of seconds between 1 and an hour, or `None` when nothing usable was said.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Nobody means it when they say more, and an hourly try is cheap.
LONGEST_WAIT = 3600.0
# `Retry-After: 0` is often a mistake; a second keeps a job from spinning.
SHORTEST_WAIT = 1.0


def seconds_to_wait(header: str | None, now: datetime | None = None) -> float | None:
    try:
        wait = _seconds(header or "", now or datetime.now(UTC))
    except ValueError:
        return None
    return min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)


def _seconds(header: str, now: datetime) -> float:
    if header.strip().isdecimal():
        return float(header)
    date = parsedate_to_datetime(header)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp()
