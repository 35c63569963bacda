"""What holds for every task of the catalogue, whatever it does."""

import inspect
from typing import Any

import pytest
from celery import current_app

from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import Job
from apps.jobs.task import JobTask
from tests.jobs.bench import Bench

CATALOGUE: dict[str, JobTask] = {
    name: task for name, task in sorted(current_app.tasks.items()) if name.startswith("tasks.")
}
DURABLE = {name: task for name, task in CATALOGUE.items() if task.durable}


def some_arguments(task: JobTask) -> dict[str, Any]:
    """A value for each argument that has no default; what it is does not matter, since the body does not run."""
    parameters = inspect.signature(task.run).parameters.values()
    return {parameter.name: 1 for parameter in parameters if parameter.default is parameter.empty}


@pytest.mark.parametrize("name", DURABLE)
def test_a_message_that_is_delivered_twice_has_the_effects_of_one(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    task = CATALOGUE[name]
    kwargs = some_arguments(task)
    monkeypatch.setattr(task, "run", lambda **arguments: runs.append(arguments))
    ledger.record([NewJob(task=name, args=[], kwargs=kwargs, queue="default")])
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    assert runs == [kwargs]
    assert Job.objects.get().state == Job.State.SUCCEEDED


def test_only_the_lab_does_without_the_ledger() -> None:
    assert {name for name, task in CATALOGUE.items() if not task.durable and not name.startswith("tasks.lab_")} == set()
