"""A queue that is full says so before anything is written."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import chain, chord, group
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from apps.jobs import backpressure
from apps.jobs.backpressure import QueueFull, QueueFullMiddleware
from apps.jobs.models import Job
from tasks.lab import lab_add, lab_nothing, lab_total
from tests.jobs.bench import Bench


@pytest.fixture
def room_for_two(settings: Any) -> None:
    policy = replace(settings.JOBS_QUEUES["default"], max_depth=2)
    settings.JOBS_QUEUES = {**settings.JOBS_QUEUES, "default": policy}


def test_past_the_depth_a_job_is_refused_and_not_written(bench: Bench, room_for_two: None) -> None:
    lab_nothing.delay()
    lab_nothing.delay()
    with pytest.raises(QueueFull, match="'default' is full"):
        lab_nothing.delay()
    assert Job.objects.count() == 2


def test_many_jobs_fit_all_together_or_not_at_all(bench: Bench, room_for_two: None) -> None:
    with pytest.raises(QueueFull):
        lab_add.delay_many([{"x": 1, "y": 1}] * 3)
    assert not Job.objects.exists()


def test_another_queue_still_has_room(bench: Bench, room_for_two: None) -> None:
    lab_add.delay_many([{"x": 1, "y": 1}] * 2)
    assert lab_nothing.apply_async(queue="low").created


def test_there_is_room_again_when_jobs_have_run(bench: Bench, room_for_two: None) -> None:
    lab_add.delay_many([{"x": 1, "y": 1}] * 2)
    bench.run_all()
    backpressure._counted.clear()
    assert lab_nothing.delay().created


def test_a_job_that_is_due_later_takes_no_room(bench: Bench, room_for_two: None) -> None:
    for _ in range(2):
        lab_nothing.apply_async(countdown=3600)
    backpressure._counted.clear()
    lab_nothing.delay()


def test_a_retry_is_never_refused(bench: Bench, room_for_two: None) -> None:
    from tests.jobs.test_task import fail_twice

    result = fail_twice.delay()
    [message] = bench.send()
    lab_nothing.delay()
    bench.deliver(message)
    assert bench.job(result).state == Job.State.QUEUED
    assert bench.job(result).retries == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda: lab_add.apply_async((1, 1), link=lab_add.s(2).set(queue="low")),
        lambda: chain(lab_add.s(1, 1), lab_add.s(2).set(queue="low")).apply_async(),
        lambda: chain(lab_add.s(1, 1), group([lab_add.s(2).set(queue="low")] * 2)).apply_async(),
        lambda: chord([lab_add.s(1, 1)], lab_total.s().set(queue="low")).apply_async(),
    ],
    ids=["link", "chain", "group in a chain", "chord"],
)
def test_what_comes_after_a_job_is_never_refused(bench: Bench, settings: Any, ask: Callable[[], Any]) -> None:
    """The job's body would run again every ten seconds, for a day."""
    ask()
    full = replace(settings.JOBS_QUEUES["low"], max_depth=0)
    settings.JOBS_QUEUES = {**settings.JOBS_QUEUES, "low": full}
    assert bench.run_due() == 1
    assert Job.objects.get(queue="default").state == Job.State.SUCCEEDED
    assert set(Job.objects.filter(queue="low").values_list("state", flat=True)) == {Job.State.QUEUED}
    with pytest.raises(QueueFull):
        lab_nothing.apply_async(queue="low")


def test_counting_stops_at_the_depth(bench: Bench) -> None:
    from apps.jobs import queues

    lab_add.delay_many([{"x": 1, "y": 1}] * 5)
    assert queues.depth("default", at_most=3) == 3


def test_the_depth_is_counted_once_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = Mock(return_value=0)
    monkeypatch.setattr("apps.jobs.queues.depth", depth)
    for _ in range(10):
        backpressure.admit("default")
    assert depth.call_count == 1


def test_a_view_answers_503_and_says_when_to_come_back(bench: Bench) -> None:
    full = QueueFull("default", 2)
    middleware = QueueFullMiddleware(_unused)
    response = middleware.process_exception(RequestFactory().post("/orders/"), full)
    assert response is not None
    assert (response.status_code, response["Retry-After"]) == (503, "10")
    assert middleware.process_exception(RequestFactory().get("/"), ValueError()) is None


def _unused(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def test_what_was_written_before_the_refusal_is_rolled_back(bench: Bench, room_for_two: None) -> None:
    def place() -> None:
        with transaction.atomic():
            for _ in range(3):
                lab_nothing.delay()

    with pytest.raises(QueueFull):
        place()
    assert not Job.objects.exists()


def test_the_error_survives_the_way_from_child_to_parent() -> None:
    copied = pickle.loads(pickle.dumps(QueueFull("default", 2)))
    assert (copied.queue, copied.max_depth, copied.retry_after) == ("default", 2, 10)
