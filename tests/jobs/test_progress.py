"""Progress: few writes, never backwards, and a place to stop."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction

from apps.jobs import ledger, progress
from apps.jobs.ledger import LeaseLost
from apps.jobs.models import Job
from apps.jobs.progress import Cancelled, Progress
from tasks.lab import lab_nothing
from tests.jobs.bench import Bench, claim, row


class Clock:
    """A second passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    report = ledger.report

    def noted(job_id: Any, token: int, snapshot: Any) -> bool:
        reports.append(dict(snapshot))
        return report(job_id, token, snapshot)

    monkeypatch.setattr(ledger, "report", noted)
    return reports


@pytest.fixture
def attempt(bench: Bench) -> Callable[[], Progress]:
    """Each call is the next attempt of one job."""
    job_id = bench.job(lab_nothing.delay()).pk

    def start() -> Progress:
        Job.objects.filter(state=Job.State.RUNNING).update(state=Job.State.QUEUED)
        return Progress(job_id, claim(job_id))

    return start


def test_nothing_to_do_is_all_done(attempt: Any, written: list[Any], clock: Clock) -> None:
    assert list(attempt().track([])) == []
    assert written[-1] == {"done": 0, "total": 0, "percent": 100.0, "eta": None, "note": ""}


def test_an_iterator_has_no_total_and_no_share(attempt: Any, written: list[Any], clock: Clock) -> None:
    def items() -> Iterator[int]:
        for number in range(3):
            clock.now += 2
            yield number

    assert list(attempt().track(items())) == [0, 1, 2]
    assert [report["percent"] for report in written[:-1]] == [None] * (len(written) - 1)
    assert (written[-1]["done"], written[-1]["percent"]) == (3, 100.0)


def test_a_thousand_quick_items_are_two_writes(attempt: Any, written: list[Any], clock: Clock) -> None:
    for _ in attempt().track(range(1000)):
        pass
    assert [report["done"] for report in written] == [0, 1000]


def test_slow_items_are_one_write_a_second(attempt: Any, written: list[Any], clock: Clock) -> None:
    for _ in attempt().track(range(20)):
        clock.now += 0.25
    assert len(written) == 2 + 20 * 0.25


def test_the_end_is_always_written(attempt: Any, written: list[Any], clock: Clock) -> None:
    for _ in attempt().track(range(7)):
        pass
    assert (written[-1]["done"], written[-1]["percent"]) == (7, 100.0)


def test_a_note_is_written_at_once(attempt: Any, written: list[Any], clock: Clock) -> None:
    current = attempt()
    current.report(1, 10)
    current.report(2, 10, note="two sheets are empty")
    assert written[-1]["note"] == "two sheets are empty"


def test_the_time_that_is_left_is_told_by_the_pace_so_far(attempt: Any, written: list[Any], clock: Clock) -> None:
    current = attempt()
    clock.now += 10
    current.report(25, 100)
    assert written[-1]["eta"] == 30.0


def test_more_than_was_expected_leaves_no_time_below_zero(attempt: Any, written: list[Any], clock: Clock) -> None:
    current = attempt()
    clock.now += 10
    current.report(125, 100)
    assert (written[-1]["percent"], written[-1]["eta"]) == (100.0, 0.0)


def test_the_share_does_not_fall_when_the_total_grows(attempt: Any, written: list[Any], clock: Clock) -> None:
    current = attempt()
    for done, total in [(50, 100), (60, 200), (190, 200)]:
        clock.now += 2
        current.report(done, total)
    assert [report["percent"] for report in written] == [50.0, 50.0, 95.0]


@pytest.mark.django_db(transaction=True)
def test_the_share_does_not_fall_when_the_job_runs_again(attempt: Any, written: list[Any], clock: Clock) -> None:
    first = attempt()
    first.report(90, 100)
    second = attempt()
    for done in (0, 50, 95):
        clock.now += 2
        second.report(done, 100)
    assert [report["percent"] for report in written] == [90.0, 90.0, 90.0, 95.0]


def test_a_wish_to_cancel_stops_the_task_at_its_next_checkpoint(attempt: Any, clock: Clock) -> None:
    current = attempt()
    done = []

    def work() -> None:
        for item in current.track(range(10)):
            clock.now += 2
            done.append(item)
            if item == 3:
                ledger.cancel(current.job_id)

    with pytest.raises(Cancelled):
        work()
    assert done == [0, 1, 2, 3]


def test_a_worker_that_lost_its_lease_stops_at_its_next_checkpoint(attempt: Any, clock: Clock) -> None:
    zombie, _ = attempt(), attempt()
    with pytest.raises(LeaseLost):
        next(zombie.track(range(10)))


def test_in_a_transaction_a_checkpoint_sees_what_there_is_to_see_and_writes_nothing(attempt: Any, clock: Clock) -> None:
    zombie, current = attempt(), attempt()
    with transaction.atomic():
        with pytest.raises(LeaseLost):
            zombie.report(1, 10)
        current.report(1, 10)
        ledger.cancel(current.job_id)
        clock.now += 2
        with pytest.raises(Cancelled):
            current.report(2, 10)
    assert row(current.job_id).progress is None


def test_outside_the_ledger_reports_go_nowhere(db: None, clock: Clock) -> None:
    assert list(Progress(None, None).track("abc")) == ["a", "b", "c"]
