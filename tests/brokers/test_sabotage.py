"""Each capability broken on purpose, and its test fails: what the table says to hold is not said lightly."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apps.local.broker_table import CAPABILITIES
from tests.acceptance.site import eventually
from tests.brokers import test_conformance as conformance
from tests.brokers.conftest import brokers_for, wanted
from tests.brokers.site import BrokerSite

# On PostgreSQL, which needs no other server, unless it lacks the capability.
ELSEWHERE = {"priority": "redis", "control": "redis", "flower": "redis", "groups": "sqs-fifo"}
# What does not come in this time does not come at all (seconds).
IMPATIENT = 10.0
# The same installation with the same patience: what fails beside it does not fail for those.
NOTHING_BROKEN = "nothing"

pytestmark = pytest.mark.skipif("sabotage" not in wanted(), reason="BROKERS=sabotage, or make brokers")


def places() -> list[tuple[str, str]]:
    """`BROKERS=sabotage,redis,sqs` breaks everything on these: the capabilities are the ledger's, but the brokers in
    which a test must notice are not alike.
    """
    named = [name for name in wanted() if name != "sabotage"]
    pairs = [(broker, name) for name in CAPABILITIES for broker in named if broker in brokers_for(name)]
    return sorted(pairs or [(ELSEWHERE.get(name, "postgresql"), name) for name in CAPABILITIES])


def test_of(capability: str) -> Callable[..., None]:
    for test in vars(conformance).values():
        if any(mark.args == (capability,) for mark in getattr(test, "pytestmark", ())):
            return test  # type: ignore[no-any-return]
    raise LookupError(capability)


test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def broken(
    installation: BrokerSite, capability: str, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BrokerSite]:
    monkeypatch.setattr(conformance, "eventually", partial(eventually, timeout=IMPATIENT))
    with django_db_blocker.unblock():
        installation.sabotage(capability)
        try:
            if capability == "groups":  # the limit itself: with more than one process there is no order
                monkeypatch.setattr(installation, "start_worker", partial(many_processes, installation))
            yield installation
        finally:
            installation.repair()


def many_processes(site: BrokerSite, **_: Any) -> None:
    BrokerSite.start_worker(site, concurrency=4)


def run_test_of(capability: str, site: BrokerSite, book: Path) -> None:
    test, arguments = test_of(capability), {"site": site, "book": book}
    test(**{name: arguments[name] for name in arguments if name in test.__annotations__})


@pytest.mark.parametrize(
    ("installation", "capability"),
    places(),
    indirect=["installation"],
    scope="session",
)
def test_a_broken_capability_fails_its_test(broken: BrokerSite, capability: str, book: Path) -> None:
    with pytest.raises(AssertionError):
        run_test_of(capability, broken, book)


@pytest.mark.parametrize(
    ("installation", "capability"), [("postgresql", NOTHING_BROKEN)], indirect=["installation"], scope="session"
)
def test_an_installation_in_which_nothing_is_broken_passes(broken: BrokerSite, capability: str, book: Path) -> None:
    for whole in ("retries", "cancel", "unknown"):
        run_test_of(whole, broken, book)
