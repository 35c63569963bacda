"""Dead letters as a file, written while it is sent: memory does not grow with their number.

Secrets are masked. What a letter says may come from anybody, and a spreadsheet runs what starts with an equals sign:
in CSV such a text gets an apostrophe in front, as OWASP advises.
"""

import csv
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from kombu.utils.json import dumps

from apps.jobs import sensitive
from apps.jobs.models import DeadLetter

# The newest of them: a file that a spreadsheet still opens.
EXPORTED = 100_000
# Rows read, and written, at a time.
CHUNK = 500
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
COLUMNS = (
    "id",
    "job_id",
    "task",
    "queue",
    "kind",
    "exception",
    "message",
    "traceback",
    "args",
    "kwargs",
    "attempts",
    "fingerprint",
    "created_at",
    "state",
    "resolved_at",
    "resolved_by",
    "reason",
    "replay_id",
)


def as_csv(request: HttpRequest, letters: "QuerySet[DeadLetter]") -> StreamingHttpResponse:
    return _file(request, _csv_chunks(letters), "csv", "text/csv; charset=utf-8")


def as_json(request: HttpRequest, letters: "QuerySet[DeadLetter]") -> StreamingHttpResponse:
    return _file(request, _json_chunks(letters), "json", "application/json")


def _file(request: HttpRequest, chunks: Iterator[str], kind: str, content_type: str) -> StreamingHttpResponse:
    name = f"dead-letters-{timezone.now():%Y-%m-%d-%H%M}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    content = _one_by_one(chunks) if isinstance(request, ASGIRequest) else chunks
    return StreamingHttpResponse(content, content_type=content_type, headers=headers)


async def _one_by_one(chunks: Iterator[str]) -> AsyncIterator[str]:
    """Under ASGI Django would read a plain iterator to its end before it sends anything."""
    take = sync_to_async(lambda: next(chunks, None))
    while (chunk := await take()) is not None:
        yield chunk


class _Echo:
    """What `csv.writer` writes into: it hands the line back."""

    def write(self, line: str) -> str:
        return line


def _csv_chunks(letters: "QuerySet[DeadLetter]") -> Iterator[str]:
    writer = csv.writer(_Echo())
    # With the mark in front Excel takes it for UTF-8.
    yield "\ufeff" + writer.writerow(COLUMNS)
    for rows in _in_chunks(letters):
        yield "".join(writer.writerow([_cell(row[name]) for name in COLUMNS]) for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        value = dumps(value)
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA_STARTS) else value


def _json_chunks(letters: "QuerySet[DeadLetter]") -> Iterator[str]:
    """A list with a letter on each line."""
    before = "[\n"
    for rows in _in_chunks(letters):
        yield before + ",\n".join(json.dumps(json.loads(dumps(row)), ensure_ascii=False) for row in rows)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _in_chunks(letters: "QuerySet[DeadLetter]") -> Iterator[Iterable[dict[str, Any]]]:
    """By a cursor of the server's, which holds one chunk here at a time."""
    chunk = []
    for letter in letters.select_related("resolved_by")[:EXPORTED].iterator(CHUNK):
        chunk.append(_row(letter))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _row(letter: DeadLetter) -> dict[str, Any]:
    values = {name: getattr(letter, name) for name in COLUMNS}
    values |= {"args": sensitive.mask(letter.args), "kwargs": sensitive.mask(letter.kwargs)}
    values |= {name: str(values[name]) for name in ("id", "job_id", "replay_id", "resolved_by") if values[name]}
    values |= {name: values[name].isoformat() for name in ("created_at", "resolved_at") if values[name]}
    return values
