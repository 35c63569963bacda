"""Dead letters: what will not be tried again by itself, to be reviewed, replayed or discarded by a person.

Problem. The usual dead-letter queue is filled by the task's own `except`, so it misses what happens outside: a time
limit, a crash, an unknown task, a message that cannot be read.

Guarantee. Every end that is not success leaves one letter. A replay is a new job that points back, and the letter is
closed in the same transaction: two operators who replay it at once make one job.

Not guaranteed. Replaying runs the task again: that it is safe to run twice is the task's business.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.jobs import ledger, sensitive
from apps.jobs.failures import Failure, plain
from apps.jobs.ids import job_id_of
from apps.jobs.models import DeadLetter, Job

# By the names that apply_async has for them, and those that a message has.
CONTINUATIONS = {"link": "callbacks", "link_error": "errbacks", "chain": "chain"}


class NotReplayable(ValueError):
    """The letter cannot become a job again."""


def write_for_request(request: Any, failure: Failure) -> None:
    """For a broker-only job that failed. Written once, however often its message is delivered."""
    embed = request._payload[2] or {}
    letter = DeadLetter(
        job_id=job_id_of(request.id),
        durable=False,
        task=request.task_name,
        args=storable(list(request.args or ())),
        kwargs=storable(dict(request.kwargs or {})),
        options={option: embed[name] for option, name in CONTINUATIONS.items() if embed.get(name)},
        queue=(request.delivery_info or {}).get("routing_key") or "",
        attempts=request.request_dict.get("retries", 0) + 1,
        **failure.as_letter(request.task_name),
    )
    DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)


def write_for_message(message: Any, failure: Failure) -> None:
    """For a message that is no task call; what could be read of it is kept, shortened."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    task = headers.get("task") if isinstance(headers.get("task"), str) else ""
    args, kwargs = _arguments(message)
    DeadLetter.objects.create(
        durable=False,
        task=plain(str(task), 255),
        args=storable(args),
        kwargs=storable(kwargs),
        queue=str((message.delivery_info or {}).get("routing_key") or "")[:100],
        **failure.as_letter(str(task)),
    )


def _arguments(message: Any) -> tuple[list[Any], dict[str, Any]]:
    """The call's arguments where the body can be read; else the body itself, as text."""
    try:
        args, kwargs, _ = message.payload
        return list(args), dict(kwargs)
    except Exception:  # noqa: BLE001 - any content type, any garbage: then it is only shown
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        return [body[:20_000].decode("utf-8", "replace").replace("\x00", "�")], {}


def storable(value: Any) -> Any:
    """JSON allows a NUL and half a character in a text, and PostgreSQL does not: the message must not get stuck."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(key)): storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [storable(inner) for inner in value]
    return value


def replay(letter_id: Any, *, by: Any = None, kwargs: Mapping[str, Any] | None = None, delay: float = 0.0) -> Any:
    """Make a new job of an open letter; returns its id, or None if the letter was resolved already.

    `kwargs` replaces the arguments, and must fit the task. Raises `NotReplayable`.
    """
    with transaction.atomic():
        letter = DeadLetter.objects.select_for_update().get(pk=letter_id)
        if letter.state != DeadLetter.State.OPEN:
            return None
        [recorded] = ledger.record([_job_again(letter, kwargs, delay)])
        _resolve(letter, DeadLetter.State.REPLAYED, by=by, replay_id=recorded.id)
    return recorded.id


def _job_again(letter: DeadLetter, kwargs: Mapping[str, Any] | None, delay: float) -> ledger.NewJob:
    task = current_app.tasks.get(letter.task)
    if task is None:
        raise NotReplayable(f"No task is named {letter.task!r}. Deploy code that knows it, or discard the letter.")
    args = list(letter.args) if kwargs is None else []
    new_kwargs = dict(letter.kwargs if kwargs is None else kwargs)
    try:
        task.__header__(*args, **new_kwargs)
    except TypeError as exc:
        raise NotReplayable(f"The arguments do not fit {letter.task}: {exc}. Correct them first.") from exc
    options = {name: value for name, value in letter.options.items() if name not in ("chord", "group_id")}
    if letter.queue in settings.JOBS_QUEUES:
        options["queue"] = letter.queue
    job: ledger.NewJob = task.new_job(args, sensitive.seal(new_kwargs, task.sensitive), None, options)
    replayed = letter.job_id or letter.id
    owner_id = Job.objects.filter(pk=replayed).values_list("owner_id", flat=True).first()
    return replace(job, delay=delay, replay_of=replayed, owner_id=owner_id)


def replay_many(letters: "QuerySet[DeadLetter]", *, by: Any = None, over: timedelta = timedelta(0)) -> list[Any]:
    """Replay every open letter of the query, evenly spread over a time, so that what broke is not broken again.

    Returns the new jobs' ids. Letters that cannot be replayed stay open.
    """
    ids = list(letters.filter(state=DeadLetter.State.OPEN).order_by("created_at").values_list("pk", flat=True))
    step = over.total_seconds() / max(1, len(ids))
    made = []
    for position, letter_id in enumerate(ids):
        try:
            made.append(replay(letter_id, by=by, delay=position * step))
        except NotReplayable:
            continue
    return [job_id for job_id in made if job_id is not None]


def discard(letters: "QuerySet[DeadLetter]", reason: str, *, by: Any = None) -> int:
    """Close open letters without a replay. Returns how many. The reason is for the next person who asks."""
    if not reason.strip():
        raise ValueError("Say why these dead letters are discarded.")
    return letters.filter(state=DeadLetter.State.OPEN).update(
        state=DeadLetter.State.DISCARDED, reason=reason, resolved_by=by, resolved_at=timezone.now()
    )


def _resolve(letter: DeadLetter, state: DeadLetter.State, **values: Any) -> None:
    letter.state = state
    letter.resolved_at = timezone.now()
    letter.resolved_by = values["by"]
    letter.replay_id = values["replay_id"]
    letter.save(update_fields=["state", "resolved_at", "resolved_by", "replay_id"])


def matching(
    task: str | None = None, fingerprint: str | None = None, since: datetime | None = None
) -> "QuerySet[DeadLetter]":
    """Open letters, narrowed down."""
    letters = DeadLetter.objects.filter(state=DeadLetter.State.OPEN)
    if task:
        letters = letters.filter(task=task)
    if fingerprint:
        letters = letters.filter(fingerprint__startswith=fingerprint)
    if since:
        letters = letters.filter(created_at__gte=since)
    return letters
