"""What every log line says of the job that caused it: job_id, task, queue, attempt, and the request behind it."""

from typing import Any

from structlog.contextvars import bind_contextvars, clear_contextvars


def working_on(request: Any) -> None:
    """In the process that runs the job, from its message on, and until the next one or `done`."""
    clear_contextvars()
    queue = (request.delivery_info or {}).get("routing_key")
    bind_contextvars(job_id=request.id, task=request.task, queue=queue, attempt=(request.retries or 0) + 1)
    request_id = (request.headers or {}).get("request_id")
    if request_id:
        bind_contextvars(request_id=request_id)


def claimed(token: int) -> None:
    """Every claim counts as an attempt here, so that no two of them have the same number."""
    bind_contextvars(attempt=token)


def done(**_: Any) -> None:
    clear_contextvars()
