"""What the code calls things, and what the documents say of it, are the same."""

import re
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.conf import settings
from django.core.management import get_commands

import tasks
from apps.home.catalogue import DOCUMENTS, PIECE, anchor, filled, queue_of, safety, shop_tasks
from apps.home.patterns import Pattern, patterns
from apps.local import procfile

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# Of a table whose first column is code: | `demo` | runs the whole system |
ROW = re.compile(r"^\| `([\w-]+)` \| (.+) \|$", re.MULTILINE)
EXPORTED = sorted(name for name, value in vars(tasks).items() if hasattr(value, "apply_async"))
PATTERNS = list(patterns())


def slug(pattern: Pattern) -> str:
    return pattern.slug


def exported(name: str) -> Any:
    return getattr(tasks, name)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_tables_in_the_documents_are_those_of_the_code(document: str) -> None:
    text = (ROOT / document).read_text()
    assert text == filled(text, "../" * document.count("/")), "Run: python3 manage.py catalogue"


def test_each_pattern_has_its_section_in_the_order_of_the_catalogue() -> None:
    text = (ROOT / "docs" / "patterns.md").read_text()
    assert [piece["name"] for piece in PIECE.finditer(text)] == [pattern.slug for pattern in PATTERNS]
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert headings == [pattern.title for pattern in PATTERNS]


def test_no_two_patterns_have_one_name_or_one_address() -> None:
    assert len({pattern.slug for pattern in PATTERNS}) == len(PATTERNS)
    assert len({anchor(pattern.title) for pattern in PATTERNS}) == len(PATTERNS)


@pytest.mark.parametrize("pattern", PATTERNS, ids=slug)
def test_a_patterns_module_and_proof_are_there(pattern: Pattern) -> None:
    assert (ROOT / pattern.module).is_file()
    assert "\ndef test_" in (ROOT / pattern.proof).read_text()


@pytest.mark.parametrize("pattern", PATTERNS, ids=slug)
def test_a_patterns_task_can_be_started(pattern: Pattern) -> None:
    if not pattern.task.startswith("none"):
        assert exported(pattern.task.removeprefix("tasks.")).name == pattern.task


@pytest.mark.parametrize("name", EXPORTED)
def test_a_task_is_named_after_its_function_and_not_after_its_file(name: str) -> None:
    assert exported(name).name == f"tasks.{name}"
    assert exported(name).run.__name__ == name


def test_every_task_of_the_shop_is_re_exported() -> None:
    assert [name for name in shop_tasks(lab=False) if name.removeprefix("tasks.") not in EXPORTED] == []


@pytest.mark.parametrize("name", [*shop_tasks(lab=False), *shop_tasks(lab=True)])
def test_a_task_has_a_queue_and_a_time_limit_and_says_why_it_may_run_twice(name: str) -> None:
    task = current_app.tasks[name]
    assert queue_of(name) in settings.JOBS_QUEUES
    soft = task.soft_time_limit or settings.CELERY_TASK_SOFT_TIME_LIMIT
    hard = task.time_limit or settings.CELERY_TASK_TIME_LIMIT
    assert 0 < soft < hard
    assert safety(task), "Its docstring has no line 'Safe to run twice: …'"


@pytest.mark.parametrize("pattern", settings.CELERY_TASK_ROUTES)
def test_a_route_leads_at_least_one_task_to_its_queue(pattern: str) -> None:
    queue = settings.CELERY_TASK_ROUTES[pattern]["queue"]
    led = [name for name in shop_tasks(lab=False) if Path(name).match(pattern) and queue_of(name) == queue]
    assert led


@pytest.mark.parametrize(
    ("prefix", "queue"), [("tasks.critical_", "high"), ("tasks.batch_", "low"), ("tasks.send_", "io")]
)
def test_the_class_of_service_in_a_name_is_its_queue(prefix: str, queue: str) -> None:
    names = [name for name in shop_tasks(lab=False) if name.startswith(prefix)]
    assert {queue_of(name) for name in names} == {queue}


@pytest.mark.parametrize("entry", settings.JOBS_SCHEDULE, ids=lambda entry: entry.name)
def test_the_schedule_names_tasks_that_exist(entry: Any) -> None:
    assert entry.task in current_app.tasks


def test_the_readme_names_every_command_of_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    named = {name for name, what in ROW.findall(README) if not what.startswith("`")}
    assert named == targets
    assert targets <= get_commands().keys()


def test_the_readme_shows_every_line_of_the_procfile() -> None:
    shown = {name: what.strip("`") for name, what in ROW.findall(README) if what.startswith("`")}
    lines = {line.name: line.command for line in procfile.read(ROOT / "Procfile")}
    assert shown.keys() == lines.keys()
    assert [name for name in lines if not lines[name].startswith(shown[name])] == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 120
