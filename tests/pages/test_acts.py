"""A verdict that cannot be bad proves nothing: each is shown a pattern that did not hold."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from apps.home.act import Verdict, succeeded
from apps.home.acts import crashes, ledger, queues, third_parties, waiting
from apps.jobs.models import Job

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def ended(state: str = "succeeded", waited: float = 0, **fields: Any) -> Job:
    start = NOW + timedelta(seconds=waited)
    times = {"created_at": NOW, "started_at": start, "finished_at": start, "attempts": 1}
    return Job.objects.create(task="tasks.lab_sleep", queue="default", state=state, **{**times, **fields})


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [
        (succeeded, {"state": "dead"}),
        (ledger.left_nothing, {}),
        (ledger.started_soon, {"waited": 3}),
        (ledger.counted_once, {}),
        (crashes.survived, {"crashes": 0}),
        (crashes.survived, {"crashes": 1, "state": "dead"}),
        (crashes.buried_as_poison, {"crashes": 4}),
        (waiting.on_time, {"waited": 1}),
        (waiting.cancelled, {}),
        (waiting.came_back, {"kwargs": {"until": NOW.timestamp() + 2}}),
        (waiting.came_back, {"waited": 9, "kwargs": {"until": NOW.timestamp() + 2}, "retries": 1}),
        (queues.urgent_was_quick, {"waited": 30}),
        (queues.waited_for_the_resume, {"waited": 0}),
        (third_parties.recovered, {}),
        (third_parties.waited_as_told, {"waited": 1}),
        (third_parties.waited_as_told, {"waited": 9, "retries": 1}),
    ],
)
def test_a_pattern_that_did_not_hold_is_called_so(verdict: Verdict, fields: dict[str, Any]) -> None:
    assert verdict([ended(**fields).pk]).held is False


def test_two_jobs_for_one_wish_are_called_so() -> None:
    assert ledger.one_job([ended().pk, ended().pk]).held is False
    assert waiting.ticked([ended().pk, ended().pk]).held is False


def test_jobs_that_were_too_quick_for_their_limit_are_called_so() -> None:
    assert third_parties.kept_to_the_limit([ended().pk for _ in range(3)]).held is False


def test_nothing_is_said_before_the_last_job_has_ended() -> None:
    live = Job.objects.create(task="tasks.lab_sleep", queue="default")
    found = succeeded([ended().pk, live.pk])
    assert found.held is None
    assert found.sentence == "1 of 2 jobs have ended."


def test_jobs_that_are_not_there_any_more_are_no_success() -> None:
    assert succeeded([uuid4()]).held is False


def test_messages_without_a_letter_are_waited_for() -> None:
    assert crashes.kept_as_letters([uuid4()]).held is None
