"""What the documents point at is there: files, headings, functions, tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.home.catalogue import anchor

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
# `apps/jobs/ledger.py`, or `apps/jobs/ledger.py:claim` for something that is defined in it.
PLACE = re.compile(r"`((?:apps|bench|config|docs|samples|tasks|tests)/[\w/.-]*\.\w+)(?::(\w+))?`")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text())


def local_links(document: Path) -> Iterator[tuple[str, Path, str]]:
    """The text of each link within the project, the file that it leads to, and the heading in it."""
    for text, address in LINK.findall(prose(document)):
        if not address.startswith(("http://", "https://")):
            path, _, heading = address.partition("#")
            yield text, (document.parent / path).resolve() if path else document, heading


def defines(path: Path, thing: str) -> bool:
    return re.search(rf"^\s*(async )?(def|class) {thing}\b|^{thing}\b.* = ", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert [str(path) for _, path, _ in local_links(document) if not path.exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_heading_that_is_linked_exists(document: Path) -> None:
    for _, path, heading in local_links(document):
        if heading:
            headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
            assert heading in [anchor(each) for each in headings], f"{path}#{heading}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    tests = [(path, text) for text, path, _ in local_links(document) if re.fullmatch(r"test_\w+", text)]
    assert [text for path, text in tests if not (path.is_file() and defines(path, text))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_place_in_the_code_that_is_named_exists(document: Path) -> None:
    for path, thing in PLACE.findall(prose(document)):
        assert (ROOT / path).is_file(), path
        assert not thing or defines(ROOT / path, thing), f"{path}:{thing}"
