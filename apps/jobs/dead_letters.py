"""Dead letters: what will not be tried again by itself, to be reviewed, replayed or discarded by a person.

Problem. The usual dead-letter queue is filled by the task's own `except`, so it misses what happens outside: a time
limit, a crash, an unknown task, a message that cannot be read.

Guarantee. Every end that is not success leaves one letter. A replay is a new job that points back, and the letter is
closed in the same transaction: two operators who replay it at once make one job.

Not guaranteed. Replaying runs the task again: that it is safe to run twice is the task's business.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.jobs import errbacks, ledger, sensitive
from apps.jobs.failures import Failure, plain
from apps.jobs.ids import job_id_of, uuid7
from apps.jobs.models import DeadLetter, Job

# By the names that apply_async has for them, and those that a message has.
CONTINUATIONS = {"link": "callbacks", "link_error": "errbacks", "chain": "chain"}

# Replayed in one transaction: a few milliseconds a letter's share of the round trips, and no lock is held for long.
BATCH = 500


# A page of causes, the largest: who has more of them has one that is larger.
CAUSES = 100

OPEN_CAUSES = """
    SELECT cause.*, latest.task, latest.kind, latest.exception, latest.message, latest.id
    FROM (
        SELECT fingerprint, count(*) AS count, min(created_at) AS first, max(created_at) AS last
        FROM jobs_deadletter WHERE state = 'open'
        GROUP BY fingerprint ORDER BY count DESC, last DESC LIMIT %s
    ) AS cause CROSS JOIN LATERAL (
        SELECT task, kind, exception, message, id FROM jobs_deadletter
        WHERE state = 'open' AND fingerprint = cause.fingerprint
        ORDER BY created_at DESC LIMIT 1
    ) AS latest
    ORDER BY cause.count DESC, cause.last DESC
"""


@dataclass(frozen=True)
class Cause:
    """Open letters that have one fingerprint; the rest is of the latest of them."""

    fingerprint: str
    count: int
    first: datetime
    last: datetime
    task: str
    kind: str
    exception: str
    message: str
    letter_id: UUID


class NotReplayable(ValueError):
    """The letter cannot become a job again."""


def write_for_request(request: Any, failure: Failure) -> None:
    """For a broker-only job that failed. Written once, however often its message is delivered."""
    embed = request._payload[2] or {}
    letter = DeadLetter(
        job_id=job_id_of(request.id),
        durable=False,
        **_call(request.type, request.args, request.kwargs),
        options={
            option: sensitive.seal_signatures(embed[name]) for option, name in CONTINUATIONS.items() if embed.get(name)
        },
        queue=(request.delivery_info or {}).get("routing_key") or "",
        attempts=request.request_dict.get("retries", 0) + 1,
        **failure.as_letter(request.type),
    )
    DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)


def write_for_unadopted(request: Any, failure: Failure) -> None:
    """For a message of a producer that does not know the ledger, of which no row could be made. Its callbacks start."""
    call = {
        **_call(request.task, request.args, request.kwargs),
        "queue": (request.delivery_info or {}).get("routing_key") or "",
    }
    letter = DeadLetter(job_id=job_id_of(request.id), durable=False, **call, **failure.as_letter(request.task))
    callbacks = sensitive.seal_signatures(storable(request.errbacks or []))
    with transaction.atomic():
        DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)
        errbacks.start(Job(id=letter.job_id, options={"link_error": callbacks}, **call), failure)


def _call(task: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """As columns. Whoever sent the message may not know which arguments are secret."""
    secret = getattr(current_app.tasks.get(task), "sensitive", ())
    return {
        "task": task,
        "args": sensitive.seal_unnamed(storable(list(args or ())), secret),
        "kwargs": sensitive.seal(storable(dict(kwargs or {})), secret),
    }


def write_for_message(message: Any, failure: Failure) -> None:
    """For a message that is no task call; what could be read of it is kept, shortened.

    A message whose worker was killed before it was acknowledged comes again, and has its letter already. Only Redis
    keeps a message's tag, so behind another broker it may get a second one.
    """
    headers = message.headers if isinstance(message.headers, dict) else {}
    task = headers.get("task") if isinstance(headers.get("task"), str) else ""
    args, kwargs = _arguments(message)
    letter = DeadLetter(
        id=_letter_id(message),
        durable=False,
        **_call(plain(str(task), 255), args, kwargs),
        queue=str((message.delivery_info or {}).get("routing_key") or "")[:100],
        **failure.as_letter(str(task)),
    )
    DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)


def _letter_id(message: Any) -> UUID:
    """The same for the same message. Its body counts too: whoever writes bad messages may write each tag twice."""
    tag = (message.properties or {}).get("delivery_tag")
    if not isinstance(tag, str):
        return uuid7()
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "replace")
    return UUID(bytes=sha256(tag.encode("utf-8", "replace") + body).digest()[:16])


def _arguments(message: Any) -> tuple[list[Any], dict[str, Any]]:
    """The call's arguments where the body can be read; else the body itself, as text."""
    try:
        args, kwargs, _ = message.payload
        return list(args), dict(kwargs)
    except Exception:  # noqa: BLE001 - any content type, any garbage: then it is only shown
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        return [body[:20_000].decode("utf-8", "replace").replace("\x00", "�")], {}


def storable(value: Any) -> Any:
    """JSON allows a NUL and half a character in a text, Python's NaN too, and PostgreSQL does not: no message must get
    stuck over that.
    """
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
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
        job = replace(_job_again(letter, kwargs), delay=delay, owner_id=_owners([letter]).get(_origin(letter)))
        ledger.let_go_of_keys([job])  # most likely the dead job's own: nothing would run, and the letter be closed
        [recorded] = ledger.record([job])
        _close_replayed({letter.pk: recorded.id}, by)
    return recorded.id


def _job_again(letter: DeadLetter, kwargs: Mapping[str, Any] | None = None) -> ledger.NewJob:
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
    if args:
        args, new_kwargs = task.sealed(args, new_kwargs)
    job: ledger.NewJob = task.new_job(args, sensitive.seal(new_kwargs, task.sensitive), None, options)
    return replace(job, replay_of=_origin(letter))


def _origin(letter: DeadLetter) -> UUID:
    """What a replay points back to: the job that died, or the letter itself of what never was a job."""
    return letter.job_id or letter.id


def _owners(letters: "Iterable[DeadLetter]") -> dict[UUID, int | None]:
    return dict(Job.objects.filter(pk__in=map(_origin, letters)).values_list("pk", "owner_id"))


def named_arguments(letter: DeadLetter) -> dict[str, Any]:
    """All arguments by name, for one of them to be changed. Raises `NotReplayable`."""
    task = current_app.tasks.get(letter.task)
    if not letter.args or task is None:
        return dict(letter.kwargs)
    try:
        return {**inspect.signature(task.run).bind_partial(*letter.args).arguments, **letter.kwargs}
    except TypeError as exc:
        raise NotReplayable(f"The arguments do not fit {letter.task}: {exc}. Give all of them anew.") from exc


def with_secrets(edited: Mapping[str, Any], letter: DeadLetter) -> dict[str, Any]:
    """What a person made of the arguments as they are shown: `***` in a secret's place is that secret again.

    Any other value is what was typed. So is all of it where the arguments that the letter has fit no signature.
    """
    try:
        before = named_arguments(letter)
    except NotReplayable:
        before = letter.kwargs
    return {
        name: before[name] if value == sensitive.MASK and sensitive.is_sealed(before.get(name)) else value
        for name, value in edited.items()
    }


def _close_replayed(made: Mapping[UUID, UUID], by: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_deadletter SET state = 'replayed', resolved_at = statement_timestamp(), resolved_by_id = %s,"
            " replay_id = made.job_id"
            " FROM unnest(%s::uuid[], %s::uuid[]) AS made (letter_id, job_id) WHERE id = made.letter_id",
            [by and by.pk, list(made.keys()), list(made.values())],
        )


def replay_many(letters: "QuerySet[DeadLetter]", *, by: Any = None, over: timedelta = timedelta(0)) -> list[Any]:
    """Replay every open letter of the query, evenly spread over a time, so that what broke is not broken again.

    Returns the new jobs' ids. Letters that cannot be replayed stay open. Batch by batch, each a transaction of its
    own: cut short anywhere, it has replayed some and forgotten none.
    """
    ids = list(letters.filter(state=DeadLetter.State.OPEN).order_by("created_at").values_list("pk", flat=True))
    step = over.total_seconds() / max(1, len(ids))
    made: list[Any] = []
    for start in range(0, len(ids), BATCH):
        made += replay_batch(ids[start : start + BATCH], by=by, delay=start * step, step=step).values()
    return made


def replay_batch(ids: Sequence[UUID], *, by: Any = None, delay: float = 0.0, step: float = 0.0) -> dict[UUID, UUID]:
    """Replay those that are open and can be: in one transaction, the first after `delay` seconds, each next a `step`
    later. Returns the new jobs by letter.
    """
    with transaction.atomic():
        # In one order: two operators who replay the same letters wait for each other, and do not deadlock.
        locked = DeadLetter.objects.select_for_update().order_by("pk")
        found = {letter.pk: letter for letter in locked.filter(pk__in=ids, state=DeadLetter.State.OPEN)}
        owners = _owners(found.values())
        jobs = {}
        for position, letter_id in enumerate(ids):
            with suppress(KeyError, NotReplayable):
                letter = found[letter_id]
                job = _job_again(letter)
                jobs[letter_id] = replace(job, delay=delay + position * step, owner_id=owners.get(_origin(letter)))
        ledger.let_go_of_keys(jobs.values())
        recorded = ledger.record(list(jobs.values())) if jobs else []
        made = {letter_id: job.id for letter_id, job in zip(jobs, recorded, strict=True)}
        _close_replayed(made, by)
    return made


def discard(letters: "QuerySet[DeadLetter]", reason: str, *, by: Any = None) -> int:
    """Close open letters without a replay. Returns how many. The reason is for the next person who asks."""
    if not reason.strip():
        raise ValueError("Say why these dead letters are discarded.")
    return letters.filter(state=DeadLetter.State.OPEN).update(
        state=DeadLetter.State.DISCARDED, reason=reason, resolved_by=by, resolved_at=timezone.now()
    )


def causes() -> list[Cause]:
    """What keeps the open letters here, the most frequent first; at most `CAUSES`."""
    with connection.cursor() as cursor:
        cursor.execute(OPEN_CAUSES, [CAUSES])
        return [Cause(*row) for row in cursor.fetchall()]


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
