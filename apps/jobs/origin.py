"""Who asked for a job: the user of the request in which `.delay()` was called, and the request's id.

A job that another job starts inherits both.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse


@dataclass(frozen=True)
class Origin:
    owner_id: int | None = None
    request_id: str | None = None

    def as_headers(self) -> dict[str, int | str]:
        """What travels in a message's headers."""
        return {name: value for name, value in vars(self).items() if value is not None}


_request: ContextVar[HttpRequest | None] = ContextVar("origin_request", default=None)
_job: ContextVar[Origin | None] = ContextVar("origin_job", default=None)


class OriginMiddleware:
    """Remembers the request while it is answered. The user is looked up only if a job is recorded."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _request.set(request)
        try:
            return self.get_response(request)
        finally:
            _request.reset(token)


def current_origin() -> Origin:
    request = _request.get()
    if request is None:
        return _job.get() or Origin()
    user = getattr(request, "user", None)
    return Origin(
        owner_id=user.pk if user is not None and user.is_authenticated else None,
        request_id=request.headers.get("X-Request-ID"),
    )


def working_for(origin: Origin) -> None:
    """Jobs that this worker records from now on, until the next call, are asked for by `origin`."""
    _job.set(origin)
