"""Each broker of `--brokers` gets one installation for all the tests; without it, a smoke test of PostgreSQL's."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from apps.local.broker_table import AGAIN, CAPABILITIES, EVERY

if TYPE_CHECKING:
    from tests.brokers.site import BrokerSite

SMOKE = ("drain", "undecodable")


def wanted() -> list[str]:
    """`BROKERS=redis,rabbitmq pytest tests/brokers`, or all of them."""
    names = os.environ.get("BROKERS", "")
    return [*EVERY, *AGAIN, "sabotage"] if names == "all" else [name for name in names.split(",") if name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `capability("…")` runs on each broker that has it."""
    marker = metafunc.definition.get_closest_marker("capability")
    if marker is not None:
        metafunc.parametrize("installation", brokers_for(marker.args[0]), indirect=True, scope="package")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no broker is asked; tell the report, of which `manage.py brokers` makes its table, of the rest."""
    asked = {item: item.get_closest_marker("capability") for item in items}
    idle = [item for item, marker in asked.items() if marker and not brokers_for(marker.args[0])]
    config.hook.pytest_deselected(items=idle)
    items[:] = [item for item in items if item not in set(idle)]
    for item in items:
        marker = asked[item]
        if marker is not None:
            item.user_properties.append(("capability", marker.args[0]))


def brokers_for(name: str) -> list[str]:
    if not wanted():
        return ["postgresql"] if name in SMOKE else []
    having = CAPABILITIES[name].brokers()
    return [broker for broker in wanted() if AGAIN.get(broker, broker) in having]


@pytest.fixture(scope="package")
def installation(request: pytest.FixtureRequest, django_db_blocker: Any) -> "Iterator[BrokerSite]":
    from apps.local import rabbitmq
    from apps.local.throwaway import FOLDER
    from tests.brokers.site import own_site

    if request.param == "rabbitmq" and not rabbitmq.is_installed():
        pytest.skip(rabbitmq.MISSING)
    with django_db_blocker.unblock(), own_site(request.param, FOLDER / f"broker-{uuid4().hex[:8]}") as site:
        yield site


@pytest.fixture
def site(installation: "BrokerSite", django_db_blocker: Any) -> "Iterator[BrokerSite]":
    with django_db_blocker.unblock():
        installation.make_whole()
        yield installation


@pytest.fixture
def book(tmp_path: Any) -> Any:
    """What jobs write down of themselves."""
    path = tmp_path / "book"
    path.touch()
    return path
