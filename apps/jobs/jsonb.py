"""JSON that PostgreSQL takes, and that can be read again.

Problem. Python writes NaN and infinity, which are no JSON, and half a character or a NUL in a text, which are JSON and
cannot be stored. PostgreSQL refuses the statement, and with it all else of its transaction. A mapping that looks like
Celery's mark for a date, and is none, can be stored and never read again: it stops the relay that takes its row, and
with it all others.

Guarantee. What PostgreSQL would refuse for its values, or nobody could read, raises ValueError before it is written.

Not guaranteed. The order of a mapping's keys, which PostgreSQL sorts: pass pairs, where it matters. A whole number that
Python writes with an exponent (1e16) comes back as an int, and -0.0 as 0.0.
"""

import re
from typing import Any

from kombu.utils.json import JSONEncoder, loads

# Two that are kept: `json.dumps` makes one for each text, which takes longer than a job's arguments do.
ENCODER = JSONEncoder(allow_nan=False)
UNESCAPED = JSONEncoder(ensure_ascii=False)
# The escape itself, and not a backslash that stands before the letters "u0000".
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def dumps(value: Any) -> str:
    """In Celery's dialect, in which dates, UUIDs and decimals come back as what they were. Raises TypeError too."""
    text = ENCODER.encode(value)
    if "\\u0000" in text and NUL.search(text):
        raise ValueError("A text holds a NUL, which PostgreSQL cannot store.")
    if "\\ud" in text:
        UNESCAPED.encode(value).encode()  # raises UnicodeEncodeError for half a character
    if '"__type__"' in text:
        _expect_readable(text)
    return text


def _expect_readable(text: str) -> None:
    """A date or an UUID that kombu has written can be read; a mapping that only looks like one raises anything."""
    try:
        loads(text)
    except Exception as exc:
        raise ValueError(f"A mapping looks like a value of Celery's JSON, and is none: {exc}") from exc
