"""Why an attempt ended badly, as a value: what goes into a job's list of errors and into its dead letter."""

import hashlib
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from celery.exceptions import MaxRetriesExceededError, Reject, SoftTimeLimitExceeded, TimeLimitExceeded
from django.conf import settings
from django.utils import timezone

from apps.jobs.models import DeadLetter
from apps.jobs.redaction import redact

Kind = DeadLetter.Kind

# A message is for a person, and a traceback for a screen; neither may fill the database.
MESSAGE_LIMIT = 2_000
TRACEBACK_LIMIT = 8_000


class WrongArguments(TypeError):
    """The arguments do not fit the task's signature."""


class OutOfMemory(RuntimeError):
    """The task asked for more memory than there is.

    Raised in place of MemoryError, which Celery's worker would take for its own and exit.
    """


class BadResult(TypeError):
    """The task's result cannot be written as JSON."""


@dataclass(frozen=True)
class Failure:
    kind: Kind
    exception: str
    message: str
    traceback: str = ""
    frame: str = ""
    module: str = ""

    @classmethod
    def of(cls, exc: BaseException, *, kind: Kind | None = None, secrets: Collection[str] = ()) -> "Failure":
        """Without the secrets, which are taken out before anything is cut: half of one would not be found."""
        return cls(
            kind=kind or kind_of(exc),
            exception=type(exc).__name__,
            message=plain(redact(str(exc) or type(exc).__name__, secrets), MESSAGE_LIMIT),
            traceback=plain(redact(_traceback(exc), secrets), TRACEBACK_LIMIT),
            frame=_last_own_frame(exc.__traceback__),
            module=type(exc).__module__,
        )

    @classmethod
    def said(cls, meta: Any, *, secrets: Collection[str] = ()) -> "Failure":
        """What a task says of itself: `self.update_state(state="FAILURE", meta=…)`, and then `raise Ignore()`."""
        told = meta if isinstance(meta, dict) else {}
        message = redact(str(told.get("exc_message", meta)), secrets)
        return cls(Kind.PERMANENT, plain(str(told.get("exc_type", "Failure")), 255), plain(message, MESSAGE_LIMIT))

    @classmethod
    def worker_lost(cls, message: str = "The worker that ran this job died or was cut off.") -> "Failure":
        return cls(Kind.CRASHED, "WorkerLost", message)

    @classmethod
    def delivered_too_often(cls) -> "Failure":
        return cls.worker_lost("Delivered too often, never acknowledged.")

    @classmethod
    def expired(cls, at: datetime) -> "Failure":
        return cls(Kind.EXPIRED, "Expired", f"The job was not started before it expired at {at:%Y-%m-%d %H:%M:%S} UTC.")

    @classmethod
    def snoozed_since(cls, at: datetime) -> "Failure":
        return cls(
            Kind.EXHAUSTED, "SnoozedTooLong", f"The job was put off again and again since {at:%Y-%m-%d %H:%M} UTC."
        )

    @classmethod
    def unknown_task(cls, task: str) -> "Failure":
        return cls(Kind.UNKNOWN_TASK, "UnknownTask", f"No worker knows a task named {task!r}.")

    def as_entry(self) -> dict[str, Any]:
        """For the job's list of errors."""
        return {
            "at": timezone.now().isoformat(),
            "kind": self.kind,
            "exception": self.exception,
            "module": self.module,
            "message": self.message,
            "traceback": self.traceback,
        }

    def as_letter(self, task: str) -> dict[str, Any]:
        """For the dead letter's columns."""
        return {
            "kind": self.kind,
            "exception": self.exception,
            "message": self.message,
            "traceback": self.traceback,
            "fingerprint": self.fingerprint(task),
        }

    def fingerprint(self, task: str) -> str:
        """Groups what has one cause: task, exception and the last frame in the project's own code."""
        cause = "\n".join([task, self.kind, self.exception, self.frame])
        return hashlib.sha256(cause.encode()).hexdigest()[:32]


def kind_of(exc: BaseException) -> Kind:
    match exc:
        case WrongArguments():
            return Kind.WRONG_ARGUMENTS
        case OutOfMemory():
            return Kind.OUT_OF_MEMORY
        case BadResult():
            return Kind.BAD_RESULT
        case SoftTimeLimitExceeded() | TimeLimitExceeded():
            return Kind.TIME_LIMIT
        case MaxRetriesExceededError():
            return Kind.EXHAUSTED
        case Reject():
            return Kind.REJECTED
        case _:
            return Kind.PERMANENT


def plain(text: str, limit: int | None = None) -> str:
    """Fit for PostgreSQL (no NUL, no lone surrogate), and not longer than `limit`; the end says the most."""
    text = text.replace("\x00", "�").encode("utf-8", "replace").decode()
    return text if limit is None or len(text) <= limit else "…" + text[1 - limit :]


def _traceback(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc, limit=-20))


def _last_own_frame(trace: TracebackType | None) -> str:
    own = [
        frame
        for frame in traceback.extract_tb(trace)
        if frame.filename.startswith(str(settings.BASE_DIR)) and "site-packages" not in frame.filename
    ]
    if not own:
        return ""
    return f"{Path(own[-1].filename).relative_to(settings.BASE_DIR)}:{own[-1].name}"
