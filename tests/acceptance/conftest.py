"""One installation for all tests of this folder, because starting it takes seconds; each test finds it whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.third_parties import sandbox as sandbox
from tests.third_parties import third_parties as third_parties

if TYPE_CHECKING:
    from tests.acceptance.site import Site


@pytest.fixture(scope="package")
def installation(django_db_blocker: Any) -> "Iterator[Site]":
    from apps.local.throwaway import FOLDER
    from tests.acceptance.site import own_site

    with django_db_blocker.unblock(), own_site(FOLDER / f"acceptance-{uuid4().hex[:8]}") as site:
        yield site


@pytest.fixture
def site(installation: "Site", django_db_blocker: Any) -> "Iterator[Site]":
    with django_db_blocker.unblock():
        installation.make_whole()
        yield installation


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """What jobs write down of themselves."""
    path = tmp_path / "book"
    path.touch()
    return path
