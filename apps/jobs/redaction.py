"""Secrets kept out of the logs, whoever writes them.

Problem. A task's secret argument stands in the message of an error that a library raised, and Celery logs that error
with its traceback; or in a line that the task itself logs.

Guarantee. While a job runs, and until the next one starts in the same thread, its secrets are replaced by `***` in
every record that `logging` makes there, before any handler sees it.

Not guaranteed. What a task prints, and a record's fields beside its message and traceback.
"""

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from apps.jobs.sensitive import MASK

_secrets: ContextVar[tuple[str, ...]] = ContextVar("redaction_secrets", default=())
_formatter = logging.Formatter()


def hide(secrets: Iterable[str]) -> None:
    """From now on, in this thread, and instead of those of the job before."""
    _secrets.set(tuple(secrets))


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def install() -> None:
    """In the factory, because each handler and each process may have filters of its own, or none."""
    make_record = logging.getLogRecordFactory()

    def make_redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        secrets = _secrets.get()
        return _redacted(record, secrets) if secrets else record

    logging.setLogRecordFactory(make_redacted_record)


def _redacted(record: logging.LogRecord, secrets: tuple[str, ...]) -> logging.LogRecord:
    record.msg, record.args = redact(record.getMessage(), secrets), None
    if record.exc_info:
        record.exc_text = redact(_formatter.formatException(record.exc_info), secrets)
        # A handler that formats the error itself must find nothing to format.
        record.exc_info = None
    return record
