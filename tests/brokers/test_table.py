"""The table of docs/brokers.md: full, current, and every cell with a test or a reason."""

from pathlib import Path

from apps.local import broker_table
from apps.local.broker_table import ALL_PASSED, CAPABILITIES, EVERY, Capability
from apps.local.management.commands.brokers import DOCUMENT, outcomes_in
from tests.brokers import test_conformance


def test_the_document_shows_what_the_suite_says() -> None:
    assert broker_table.markdown(ALL_PASSED) in DOCUMENT.read_text()


def test_every_capability_has_a_test() -> None:
    marks = [mark for test in vars(test_conformance).values() for mark in getattr(test, "pytestmark", ())]
    assert {mark.args[0] for mark in marks if mark.name == "capability"} == set(CAPABILITIES)


def test_no_cell_is_empty_and_every_no_has_a_reason() -> None:
    for name, made in CAPABILITIES.items():
        assert set(made.lacks) | set(made.limits) <= set(EVERY)
        assert all(made.lacks.values()), name
        assert made.brokers(), name


def test_what_failed_or_did_not_run_is_not_said_to_hold(tmp_path: Path) -> None:
    report = tmp_path / "redis.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a"><properties><property name="capability" value="drain"/></properties>'
        '</testcase><testcase name="b"><properties><property name="capability" value="eta"/></properties><failure/>'
        "</testcase></testsuite></testsuites>"
    )
    outcomes = outcomes_in(report, "redis")
    assert broker_table.cell("drain", "redis", outcomes) == "holds"
    assert broker_table.cell("eta", "redis", outcomes) == "**FAILED**"
    assert broker_table.cell("routing", "redis", outcomes) == "not run"
    assert broker_table.cell("groups", "redis", outcomes) == "no: order is not promised"


def test_a_limit_is_said_beside_what_holds() -> None:
    assert Capability("x", {"redis": "for a minute"}).cell("redis") == "holds; for a minute"
