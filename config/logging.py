"""Logs: one JSON line an event, or readable colours in a terminal.

Whoever logs uses the standard library's `logging`. What is known of the request or the job at that moment is added from
structlog's context: see `apps.jobs.log_context`.

A line is one event, whatever stands in it: JSON has no line breaks, and a terminal gets control characters spelled out.
"""

import logging
import re
import sys
import traceback
from typing import Any, TextIO

import structlog
from django.core.exceptions import ImproperlyConfigured
from structlog.typing import EventDict, ExcInfo, Processor

from config.env import env

FORMATS = ("auto", "console", "json")

# What asks every few seconds, and would fill the log with its questions.
PROBES = ("/health/", "/metrics")

# Whoever reads the rest of such a link signs in with it. By its text, and not by the view that it leads to: many lines
# are of requests that reach none, such as one for another host, by plain http, or with a dot from the mail behind it.
SIGNS_IN = re.compile(r"(/password-reset/).+/.+", re.IGNORECASE)


class ExceptProbes(logging.Filter):
    """A red answer of /health is told to whoever asked, and is no error of this process."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        return not str(getattr(request, "path", "")).startswith(PROBES)


def without_links_that_sign_in(_: Any, __: str, event: EventDict) -> EventDict:
    """Also from Django's own lines: it names the address of each request that it refuses."""
    event.update({name: SIGNS_IN.sub(r"\1***", value) for name, value in event.items() if isinstance(value, str)})
    return event


def traceback_without_secrets(_: Any, __: str, event: EventDict) -> EventDict:
    """`apps.jobs.redaction` leaves a traceback as text, and no exception to format."""
    record: logging.LogRecord = event["_record"]
    if record.exc_text and not record.exc_info:
        event["exception"] = record.exc_text
    return event


def job_of_the_message(_: Any, __: str, event: EventDict) -> EventDict:
    """What Celery's main process says of a message comes with its task and id."""
    data = getattr(event["_record"], "data", None)
    if isinstance(data, dict) and "id" in data:
        event.update(job_id=data["id"], task=data.get("name"))
    return event


def spelled_out(text: str) -> str:
    """A line break, a colour, a carriage return: seen as what they are, and not obeyed."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def on_one_line(_: Any, __: str, event: EventDict) -> EventDict:
    lines = str(event.pop("exception", "")).splitlines()
    event.update({name: spelled_out(value) for name, value in event.items() if isinstance(value, str)})
    if lines:
        event["exception"] = "\n".join(map(in_the_margin, lines))
    return event


def in_the_margin(line: str) -> str:
    """A line of a traceback cannot be taken for an event."""
    return f"    {spelled_out(line)}"


def plain_traceback(out: TextIO, error: ExcInfo) -> None:
    out.writelines(f"\n{in_the_margin(line)}" for line in "".join(traceback.format_exception(*error)).splitlines())


FROM_ANYBODY: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(allow=["method", "path", "status", "milliseconds"]),
    without_links_that_sign_in,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    traceback_without_secrets,
    job_of_the_message,
]


def renderers(chosen: str) -> list[Processor]:
    """For "auto": colours where somebody is looking."""
    if chosen not in FORMATS:
        raise ImproperlyConfigured(f"LOG_FORMAT is {chosen!r}, and has to be one of {', '.join(FORMATS)}.")
    if chosen == "console" or (chosen == "auto" and sys.stderr.isatty()):
        console = structlog.dev.ConsoleRenderer(exception_formatter=plain_traceback, pad_event_to=0)
        return [on_one_line, console]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "event": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": FROM_ANYBODY,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderers(env.str("LOG_FORMAT", "auto")),
            ],
        }
    },
    "filters": {"except_probes": {"()": ExceptProbes}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "event"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # Django would write a second line of its own while DEBUG is on, tracebacks and all, and as text.
        "django": {"handlers": [], "propagate": True},
        "django.request": {"filters": ["except_probes"]},
        "django.server": {"handlers": [], "propagate": True},
        # The web server would use a format of its own. Each request has its line already, by `RequestLogMiddleware`.
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": True, "level": "WARNING"},
        "botocore": {"level": "WARNING"},
        "stripe": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
    },
}
