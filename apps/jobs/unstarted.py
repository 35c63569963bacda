"""Dead letters of what was to start after a job, and never will.

Guarantee. Each task that a signature would have started has a letter, with its own arguments, options and queue, so
that a replay goes on where it would have begun; what it asked for by `link_error` starts. Of a group each task has one;
a chain, or a chord, has one, whose replay runs all of it.

Not guaranteed. A chord with a group for its body has one letter, which the tasks of that group do not show as theirs.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

from celery import current_app
from celery.canvas import Signature, chord, group, maybe_signature
from celery.exceptions import QueueNotFound
from celery.utils.functional import maybe_list

from apps.jobs import errbacks, origin
from apps.jobs.failures import Failure
from apps.jobs.ids import job_id_of
from apps.jobs.models import DeadLetter, Job
from apps.jobs.options import carried

# Options of a chain that Celery does not hand on to its first link.
OF_A_WHOLE_CHAIN = frozenset("task_id link link_error chain chord group_id group_index root_id parent_id".split())


def bury(signature: Any, queue: str, failure: Failure) -> None:
    """A dead letter of what never was a job, with what was to come after it, and its `link_error`. Of a group: of each.

    `queue`: for a task whose own queue is not known here.
    """
    for task_id, first in _first_tasks(signature):
        job_id, options = job_id_of(task_id), carried(first.options, origin.current_origin())
        call: dict[str, Any] = {
            "task": first.task,
            "args": list(first.args),
            "kwargs": dict(first.kwargs),
            "options": options,
            "queue": _queue_of(first) or queue,
        }
        letter = DeadLetter(job_id=job_id, **call, **failure.as_letter(first.task))
        DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)
        errbacks.start(Job(id=job_id, **call), failure)


def _first_tasks(signature: Any) -> Iterator[tuple[str, Any]]:
    """The tasks that it would have started, with the options that Celery would have given them; each under the id that
    whoever waits for its end has: of a chain, its last one's.
    """
    match signature.subtask_type:
        case "group":
            for task in signature.tasks:
                yield from _first_tasks(_in_group(task, signature.options))
        case "chain":
            task_id = signature.id or signature.freeze().id
            yield from ((task_id, first) for _, first in _first_tasks(_first_link(signature)))
        case "chord":
            yield signature.freeze().id, _chord_as_task(signature)
        case _:
            yield signature.freeze().id, signature


def _in_group(task: Any, options: Mapping[str, Any]) -> Any:
    """A group's options are its tasks' own, but each keeps its id, and its errbacks beside the group's."""
    shared = {name: value for name, value in options.items() if name != "task_id" and value is not None}
    return task.clone(**shared | {"link_error": _each_once(task.options, options)})


def _each_once(*options: Mapping[str, Any]) -> list[Any]:
    """The errbacks in these options."""
    found: list[Any] = []
    for errback in (errback for each in options for errback in maybe_list(each.get("link_error")) or ()):
        if errback not in found:
            found.append(errback)
    return found


def _first_link(links: Any) -> Any:
    """As Celery starts a chain: its errbacks are every link's, its callbacks the last's, all else the first's."""
    options = links.options
    steps, _ = links.prepare_steps((), {}, links.tasks, app=current_app, last_task_id=links.id)
    for callback in maybe_list(options.get("link")) or ():
        steps[0].link(maybe_signature(callback, app=current_app))
    for step, errback in product(steps, _each_once(options)):
        (step.body if isinstance(step, chord) else step).link_error(maybe_signature(errback, app=current_app))
    first = steps.pop()
    own = {name: value for name, value in options.items() if name not in OF_A_WHOLE_CHAIN}
    return first.clone(**own, chain=[*(options.get("chain") or ()), *steps])


def _chord_as_task(whole: Any) -> Any:
    """Celery has a task that starts a chord. What comes after goes to the body; the task's own result is no JSON."""
    after = {name: whole.options[name] for name in ("link", "link_error", "chain") if whole.options.get(name)}
    parts = whole.tasks.tasks if isinstance(whole.tasks, group) else whole.tasks
    errbacks_of_both = _each_once(whole.options, whole.body.options)
    return Signature(
        whole.task,
        args=whole.args,
        kwargs={**whole.kwargs, "header": list(parts), **after},
        options={"link_error": errbacks_of_both, "ignore_result": True},
    )


def _queue_of(signature: Any) -> str | None:
    task = current_app.tasks.get(signature.task)
    with suppress(QueueNotFound):
        return task and str(task.queue_for(list(signature.args), dict(signature.kwargs), signature.options))
    return None
