"""The catalogue of patterns, and the one of tasks, as Markdown.

A document carries a piece of them between two comments, `<!-- catalogue: NAME -->` and `<!-- end -->`. The command
`manage.py catalogue` writes the pieces there, and tests/test_catalogue.py compares.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import current_app

from apps.home.patterns import Pattern, find, patterns

PIECE = re.compile(r"(<!-- catalogue: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
DOCUMENTS = ("README.md", "docs/patterns.md", "docs/tasks.md")
# Tasks that misbehave on request. They are for the demo and the tests, and no part of the shop.
LAB = "tasks.lab_"


def filled(text: str, root: str) -> str:
    """The document with each of its pieces as the code has it now. `root` leads from the document to the project."""
    return PIECE.sub(lambda piece: f"{piece[1]}{_piece(piece['name'], root)}\n{piece[3]}", text)


def _piece(name: str, root: str) -> str:
    tables: dict[str, Callable[[str], Iterator[str]]] = {
        "patterns": _pattern_table,
        "tasks": lambda root: _task_table(root, lab=False),
        "lab": lambda root: _task_table(root, lab=True),
    }
    if name in tables:
        return "\n".join(tables[name](root))
    pattern = find(name)
    if pattern is None:
        raise ValueError(f"The catalogue has no {name!r}.")
    return "\n".join(_head(pattern, root))


def _pattern_table(root: str) -> Iterator[str]:
    yield "| When | Pattern | Module | Task | Proof |"
    yield "|---|---|---|---|---|"
    for pattern in patterns():
        title = f"[{pattern.title}]({root}docs/patterns.md#{anchor(pattern.title)})"
        yield _row([pattern.when, title, *_doors(pattern, root)])


def _head(pattern: Pattern, root: str) -> Iterator[str]:
    yield f"*When {pattern.when}.*\n"
    yield f"**The usual code.** {pattern.without}\n"
    yield f"**Here.** {pattern.with_}\n"
    yield "Module {} · task {} · proof {}".format(*_doors(pattern, root))


def _doors(pattern: Pattern, root: str) -> list[str]:
    return [_file(pattern.module, root), _task(pattern.task, root), _file(pattern.proof, root)]


def _task_table(root: str, *, lab: bool) -> Iterator[str]:
    yield "| Task | Queue | Tried again | At most | One live job for each | Safe to run twice |"
    yield "|---|---|---|---|---|---|"
    for name in shop_tasks(lab=lab):
        task = current_app.tasks[name]
        cells = [_task(name, root), queue_of(name), _retries(task), _limit(task), ", ".join(task.unique), safety(task)]
        yield _row(cells)


def shop_tasks(*, lab: bool) -> list[str]:
    return sorted(name for name in current_app.tasks if name.startswith("tasks.") and name.startswith(LAB) == lab)


def queue_of(task: str) -> str:
    """By Celery's own router; raises QueueNotFound for a route that leads nowhere."""
    return str(current_app.amqp.router.route({}, task)["queue"].name)


def safety(task: Any) -> str:
    """What its docstring says makes it safe to run twice; empty if it does not say."""
    found = re.search(r"Safe to run twice: (.+?)(?:\n\n|$)", inspect.getdoc(task.run) or "", re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _retries(task: Any) -> str:
    errors = getattr(task, "autoretry_for", ())
    return f"{task.max_retries} times, {', '.join(f'`{error.__name__}`' for error in errors)}" if errors else "no"


def _limit(task: Any) -> str:
    return f"{task.time_limit or current_app.conf.task_time_limit:g} s"


def _task(name: str, root: str) -> str:
    task = current_app.tasks.get(name)
    return f"[`{name}`]({root}{task.__module__.replace('.', '/')}.py)" if task else name


def _file(path: str, root: str) -> str:
    return f"[{Path(path).name}]({root}{path})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
