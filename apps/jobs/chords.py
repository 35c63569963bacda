"""Chords: a body that starts when every part of its header has succeeded.

Problem. Celery counts the parts in the result backend: a wiped Redis, or a part that ran twice, and the body never
starts, or starts early.

Guarantee. The count is a row, lowered in the transaction that ends a part, so each part counts once; the last one
starts the body in that same transaction. If a part dies, or what leads to it, the body is a dead letter that names it,
and what it asked for by `link_error` starts; so does the body of a chord around this one. A chord, like a group, is
started in one transaction, its parts by one INSERT: half of one cannot exist. A part that is refused as a duplicate,
or whose id another job has, counts as one that died: the job that is there already does not know of the chord. The
rest of a chain whose link is refused becomes a dead letter, too (`apps.jobs.unstarted` writes them).
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any
from uuid import UUID

from celery import canvas, current_app
from celery.canvas import Signature, _chain, chord, group, maybe_signature
from celery.result import GroupResult, ResultBase
from django.db import transaction
from django.db.models import F

from apps.jobs import unstarted
from apps.jobs.failures import Failure, Kind
from apps.jobs.ids import job_id_of, uuid7
from apps.jobs.models import Chord, Job
from apps.jobs.sensitive import seal_signatures


def _whole(start: Callable[..., Any]) -> Callable[..., Any]:
    """Celery has no hook around the start of these: it records what they are made of one by one."""

    @wraps(start)
    def start_whole(self: Signature, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, group) and _needs_no_ledger(self):
            return start(self, *args, **kwargs)
        from apps.jobs import ledger  # which needs this module

        with transaction.atomic(), ledger.together():
            return start(self, *args, **kwargs)

    return start_whole


def _needs_no_ledger(parts: group) -> bool:
    """Nor, therefore, a database, which may be away."""
    tasks = (current_app.tasks.get(part["task"]) for part in parts.tasks)
    return current_app.conf.task_always_eager or not any(getattr(task, "durable", True) for task in tasks)


chord.run, group.apply_async = _whole(chord.run), _whole(group.apply_async)


def _anew(start: Callable[..., Any]) -> Callable[..., Any]:
    """A chain keeps the id that its last link was given when it was started, and gives it again when it is started
    again. To Celery these are two jobs of one id; to the ledger the second is the first, and would never run.
    """

    @wraps(start)
    def start_anew(self: Signature, *args: Any, **kwargs: Any) -> Any:
        return start(self.clone(), *args, **kwargs)

    return start_anew


_chain.run = _anew(_chain.run)
# Parts are recorded together, so they are due together, and are then taken in the order of their ids.
canvas.uuid = lambda: str(uuid7())


def await_parts(group_id: str, parts: list[ResultBase], body: Any) -> None:
    """Record the body before the first part is recorded. A second time with the same group changes nothing."""
    header = [_ids(part) for part in parts]
    kept = seal_signatures(dict(body))
    waits_for = len(set(_flat(header)))
    chord = Chord(id=job_id_of(group_id), body=kept, body_id=job_id_of(body.id), header=header, waits_for=waits_for)
    Chord.objects.bulk_create([chord], ignore_conflicts=True)


def _ids(part: ResultBase) -> Any:
    """The part's id, or the nested list of them, for a group inside a header."""
    return [_ids(inner) for inner in part.results] if isinstance(part, GroupResult) else part.id


def part_succeeded(group_id: str) -> None:
    """Count one part down; the last one starts the body. In the transaction in which the part succeeds."""
    header_id = job_id_of(group_id)
    if not Chord.objects.filter(pk=header_id).update(waits_for=F("waits_for") - 1):
        return
    chord = Chord.objects.filter(pk=header_id, waits_for=0).first()
    if chord is not None:
        maybe_signature(chord.body, app=current_app).apply_async((_results(chord.header),))
        chord.delete()


def _results(header: Any) -> Any:
    by_id = dict(Job.objects.filter(pk__in=list(map(job_id_of, _flat(header)))).values_list("pk", "result"))
    return _fill(header, by_id)


def _flat(ids: Any) -> Any:
    for inner in ids:
        if isinstance(inner, list):
            yield from _flat(inner)
        else:
            yield inner


def _fill(ids: Any, by_id: dict[UUID, Any]) -> Any:
    return [_fill(inner, by_id) for inner in ids] if isinstance(ids, list) else by_id.get(job_id_of(ids))


def part_died(job: Job) -> None:
    """The body will never start: say so in a dead letter of its own. In the transaction in which the part ends."""
    _part_failed(job, f"Its part {job.task} ({job.id}) ended as {job.state}.")


def part_ignored(job: Job) -> None:
    """By itself: a part counts, without a result; a link before a part ends its chain, as in Celery, so the part never
    comes. In the transaction in which the job succeeds.
    """
    if job.options.get("chord"):
        part_succeeded(str(job.options.get("group_id")))
    else:
        _part_failed(job, f"Its part will never start: {job.task} ({job.id}) before it ignored itself.")


def refused(job: Job, holder: UUID) -> None:
    """What was to come after a job that is not made, because another has its unique key, will never start either."""
    chain = job.options.get("chain")
    if not (chain or job.options.get("chord")):
        return
    why = f"was refused as a duplicate of {holder}, which has its unique key."
    with transaction.atomic():
        if chain:
            following = maybe_signature(chain[-1], app=current_app).clone(chain=chain[:-1])
            failure = Failure(Kind.DEPENDENCY, "ChainError", f"The link before it, {job.task}, {why}")
            unstarted.bury(following, job.queue, failure)
        _part_failed(job, f"Its part {job.task} {why}")


def exists_already(there: Job, options: Mapping[str, Any], queue: str) -> None:
    """A job that was to have these options is not made, for another has its id: as part of another chord, or of none.

    If that chord has the same body, it is the same wish a second time, and this one is dropped.
    """
    header_id = _header_of(options)
    if header_id is None or header_id == _header_of(there.options):
        return
    with transaction.atomic():
        chord = Chord.objects.select_for_update().filter(pk=header_id).first()
        if chord is not None and _body_is_expected(chord):
            chord.delete()
        elif chord is not None:
            _bury_body(chord, queue, f"Its part {there.task} ({there.id}) was there already, and is no part of it.")


def _body_is_expected(chord: Chord) -> bool:
    """By another chord; or it is there."""
    others = Chord.objects.filter(body_id=chord.body_id).exclude(pk=chord.pk)
    return others.exists() or Job.objects.filter(pk=chord.body_id).exists()


def _part_failed(job: Job, why: str) -> None:
    header_id = _header_of(job.options)
    if header_id is not None:
        _fail(header_id, job.queue, why)


def _fail(header_id: UUID, queue: str, why: str) -> None:
    # Of two parts that die at once, the second waits here and then finds no chord.
    chord = Chord.objects.select_for_update().filter(pk=header_id).first()
    if chord is not None:
        _bury_body(chord, queue, why)


def is_awaited(options: Mapping[str, Any]) -> bool:
    """Whether a job with these options is a chord's part, or the rest of its chain leads to one."""
    return _header_of(options) is not None


def _header_of(options: Any) -> UUID | None:
    """The id of the header that a job with these options is a part of, or that the rest of its chain leads to.

    A producer that is not ours may have written anything there: then no chord has that id.
    """
    if not isinstance(options, dict):
        return None
    if options.get("chord"):
        return job_id_of(str(options.get("group_id")))
    return _header_behind(options.get("chain"))


def _header_behind(signatures: Any) -> UUID | None:
    """The same of what has not started: of a group and a chain their tasks know, of a chord its body."""
    for signature in signatures if isinstance(signatures, list | tuple) else ():
        match signature:
            case {"subtask_type": "chord", "kwargs": {"body": body}}:
                header_id = _header_behind([body])
            case {"subtask_type": "chain" | "group", "kwargs": {"tasks": tasks}}:
                header_id = _header_behind(tasks)
            case {"options": options}:
                header_id = _header_of(options)
            case _:
                header_id = None
        if header_id is not None:
            return header_id
    return None


def abandon(chord: Chord) -> None:
    """For a chord of which no part is left that could end."""
    _fail(chord.pk, "", "Its header was never recorded in full: whoever started the chord died meanwhile.")


def _bury_body(chord: Chord, queue: str, why: str) -> None:
    """And that of the chord around it, whose part this one's body was to be."""
    failure = Failure(Kind.DEPENDENCY, "ChordError", why)
    unstarted.bury(maybe_signature(chord.body, app=current_app), queue, failure)
    chord.delete()
    header_id = _header_behind([chord.body])
    if header_id is not None:
        _fail(header_id, queue, f"Its part {chord.body['task']} ({chord.body_id}) can never start. {why}")
