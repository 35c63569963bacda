"""Who asked for a job: the user of the request in which `.delay()` was called, and the request's id.

A job that another job starts inherits both.
"""

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4

from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bound_contextvars

# What a proxy in front may send: its id goes into messages and logs, so it is short and plain, or we make our own.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{8,100}")
HEADER = "HTTP_X_REQUEST_ID"


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
    """Remembers the request while it is answered, and gives it an id, which its answer and its log lines show.

    The user is looked up only if a job is recorded.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = given if REQUEST_ID.fullmatch(given := request.META.get(HEADER, "")) else uuid4().hex
        request.META[HEADER] = request_id
        token = _request.set(request)
        try:
            with bound_contextvars(request_id=request_id):
                response = self.get_response(request)
        finally:
            _request.reset(token)
        response["X-Request-ID"] = request_id
        return response


def current_origin() -> Origin:
    request = _request.get()
    if request is None:
        return _job.get() or Origin()
    user = getattr(request, "user", None)
    return Origin(
        owner_id=user.pk if user is not None and user.is_authenticated else None,
        request_id=request.META.get(HEADER),
    )


def working_for(origin: Origin) -> None:
    """Jobs that this worker records from now on, until the next call, are asked for by `origin`."""
    _job.set(origin)
