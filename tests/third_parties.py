"""Stripe and the supplier, pretended over real HTTP for the length of a test."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from apps.sandbox.client import Sandbox
from apps.sandbox.testing import running_sandbox


@pytest.fixture(scope="session")
def third_parties() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(third_parties: Sandbox, settings: Settings) -> Sandbox:
    """Stripe and the supplier as they are on the first day, and a shop that knows their addresses."""
    third_parties.clear()
    third_parties.reset()
    settings.STRIPE_API_BASE = third_parties.url
    settings.SUPPLIER_API_BASE = f"{third_parties.url}/supplier"
    return third_parties
