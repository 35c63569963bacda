"""An upstream says when to come back: in seconds, as a date, or in nonsense."""

from datetime import UTC, datetime

import pytest

from apps.jobs.retry_after import LONGEST_WAIT, SHORTEST_WAIT, seconds_to_wait

NOW = datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17),
        (" 17 ", 17),
        ("Sun, 29 Mar 2026 01:00:00 GMT", 30),
        ("Sun, 29 Mar 2026 03:00:00 +0200", 30),
        ("Sunday, 29-Mar-26 01:00:00 GMT", 30),
        ("Sun Mar 29 01:00:00 2026", 30),
    ],
)
def test_seconds_and_dates_are_obeyed(header: str, seconds: float) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@pytest.mark.parametrize("header", ["0", "Sun, 29 Mar 2026 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_at_once_and_in_the_past_still_wait_a_moment(header: str) -> None:
    assert seconds_to_wait(header, NOW) == SHORTEST_WAIT


@pytest.mark.parametrize("header", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_waits_longer_than_an_hour(header: str) -> None:
    assert seconds_to_wait(header, NOW) == LONGEST_WAIT


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-5", "1.5", "²", "17 s", "Sun, 99 Mar 2026 01:00:00 GMT", "\x00"]
)
def test_nonsense_says_nothing(header: str | None) -> None:
    assert seconds_to_wait(header, NOW) is None
