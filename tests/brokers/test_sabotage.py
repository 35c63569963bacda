"""Each capability broken on purpose, and its test fails: what the table says to hold is not said lightly."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from apps.local.broker_table import CAPABILITIES
from tests.acceptance.site import eventually
from tests.brokers import test_conformance as conformance
from tests.brokers.conftest import wanted
from tests.brokers.site import BrokerSite

# On PostgreSQL, which needs no other server, unless it lacks the capability.
ELSEWHERE = {"priority": "redis", "control": "redis", "flower": "redis", "given_up": "rabbitmq", "groups": "sqs-fifo"}
# What does not come in this time does not come at all (seconds).
IMPATIENT = 12.0

pytestmark = pytest.mark.skipif("sabotage" not in wanted(), reason="BROKERS=sabotage, or make brokers")


def test_of(capability: str) -> Callable[..., None]:
    for test in vars(conformance).values():
        if any(mark.args == (capability,) for mark in getattr(test, "pytestmark", ())):
            return test  # type: ignore[no-any-return]
    raise LookupError(capability)


test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("installation", "capability"),
    sorted((ELSEWHERE.get(name, "postgresql"), name) for name in CAPABILITIES),
    indirect=["installation"],
    scope="session",
)
def test_a_broken_capability_fails_its_test(
    site: BrokerSite, capability: str, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = test_of(capability)
    monkeypatch.setattr(conformance, "eventually", partial(eventually, timeout=IMPATIENT))
    if capability == "groups":  # the limit itself: with more than one process there is no order
        monkeypatch.setattr(site, "start_worker", lambda **_: BrokerSite.start_worker(site, concurrency=4))
    else:
        site.sabotage(capability)
    arguments = {"site": site, "book": book}
    try:
        with pytest.raises(AssertionError):
            test(**{name: arguments[name] for name in arguments if name in test.__annotations__})
    finally:
        site.repair()
