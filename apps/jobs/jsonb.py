"""JSON that PostgreSQL takes, and that can be read again.

Problem. Python writes NaN and infinity, which are no JSON, and half a character or a NUL in a text, which are JSON and
cannot be stored. PostgreSQL refuses the statement, and with it all else of its transaction. A mapping that looks like
Celery's mark for a date, and is none, can be stored and never read again: it stops the relay that takes its row, and
with it all others. So can what is nested deeper than Python reads.

Guarantee. What PostgreSQL would refuse for its values, or nobody could read, raises ValueError before it is written.

Not guaranteed. The order of a mapping's keys, which PostgreSQL sorts: pass pairs, where it matters. A whole number that
Python writes with an exponent (1e16) comes back as an int, and -0.0 as 0.0.
"""

import re
from itertools import chain
from typing import Any

from kombu.utils.json import JSONEncoder, loads

# Two that are kept: `json.dumps` makes one for each text, which takes longer than a job's arguments do.
ENCODER = JSONEncoder(allow_nan=False)
UNESCAPED = JSONEncoder(ensure_ascii=False)
# The escape itself, and not a backslash that stands before the letters "u0000".
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# Python reads JSON by calling itself, once a level and 1,000 times at most. Whoever writes may have more calls left
# than a relay, or a page of the admin, has when it reads.
MOST_LEVELS = 800
NESTED = (dict, list, tuple)


def dumps(value: Any) -> str:
    """In Celery's dialect, in which dates, UUIDs and decimals come back as what they were. Raises TypeError too."""
    text = ENCODER.encode(value)
    if "\\u0000" in text and NUL.search(text):
        raise ValueError("A text holds a NUL, which PostgreSQL cannot store.")
    if "\\ud" in text:
        UNESCAPED.encode(value).encode()  # raises UnicodeEncodeError for half a character
    if '"__type__"' in text:
        _expect_readable(text)
    if text.count("[") + text.count("{") > MOST_LEVELS and _is_too_deep(value):
        raise ValueError(f"A value is nested more than {MOST_LEVELS} levels deep.")
    return text


def _is_too_deep(value: Any) -> bool:
    level: list[Any] = [[value]]
    for _ in range(MOST_LEVELS + 1):
        values = chain.from_iterable(outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for inner in values if isinstance(inner, NESTED)]
    return bool(level)


def _expect_readable(text: str) -> None:
    """A date or an UUID that kombu has written can be read; a mapping that only looks like one raises anything."""
    try:
        loads(text)
    except Exception as exc:
        raise ValueError(f"A mapping looks like a value of Celery's JSON, and is none: {exc}") from exc
