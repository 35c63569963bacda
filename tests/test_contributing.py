"""The recipe in CONTRIBUTING.md is run as it stands there."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from celery import current_app
from django.test import RequestFactory

import tasks
from apps.catalog import client, services, views
from apps.jobs import rescue
from apps.jobs.failures import Failure
from apps.jobs.models import DeadLetter, Job
from apps.sandbox.client import Sandbox
from config.queues import QUEUES, TASK_ROUTES
from tasks import catalog
from tests.cast import history, permit, shopkeeper
from tests.jobs.bench import Bench
from tests.jobs.conftest import bench as bench
from tests.shop import a_product
from tests.third_parties import sandbox as sandbox
from tests.third_parties import third_parties as third_parties

pytestmark = pytest.mark.django_db

RECIPE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
SERVICE, TASK, NAME, ROUTE, VIEW, TESTS = re.findall(r"^```python\n(.*?)^```$", RECIPE, re.DOTALL | re.MULTILINE)
FUNCTION = "withdraw_product"

# What the file that the tests would be added to imports.
FOR_TESTS = {
    thing.__name__.rpartition(".")[2]: thing
    for thing in (Any, Bench, DeadLetter, Failure, Job, Sandbox, UUID, a_product, client, pytest, rescue, tasks)
}


def written_into(module: ModuleType, block: str) -> dict[str, Any]:
    """The names in the module once the block is added to it; the module itself stays as it is."""
    names = dict(vars(module))
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Service, task and name are in their files, and gone again afterwards."""
    for module, block in ((services, SERVICE), (catalog, TASK), (tasks, NAME)):
        monkeypatch.setattr(module, FUNCTION, written_into(module, block)[FUNCTION], raising=False)
    yield
    del current_app.tasks[f"tasks.{FUNCTION}"]


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", TESTS, re.MULTILINE))
def test_the_recipes_own_tests_pass(name: str, request: pytest.FixtureRequest) -> None:
    names = dict(FOR_TESTS)
    exec(compile(TESTS, "CONTRIBUTING.md", "exec"), names)
    its_test: Any = names[name]
    its_test(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(its_test).parameters})


def test_the_recipes_route_leads_to_a_queue() -> None:
    routes = dict(TASK_ROUTES)
    exec(compile(ROUTE, "CONTRIBUTING.md", "exec"), {"TASK_ROUTES": routes})
    assert routes[f"tasks.{FUNCTION}"]["queue"] in QUEUES


def test_the_recipes_view_starts_the_job(rf: RequestFactory, bench: Bench, sandbox: Sandbox) -> None:
    product = a_product()
    request = rf.post("/")
    request.user = shopkeeper("ada")
    permit(request.user, "change_product")
    answer = written_into(views, VIEW)["withdraw"](request, product.pk)
    bench.run_all()
    assert answer.url == f"/jobs/{Job.objects.get().pk}/"
    assert sandbox.products()[product.sku]["product"]["active"] is False
    assert history(product) == [("ada", "Withdrawn.")]
