"""Which values fit which annotations, and how a job ends whose values do not."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from celery import shared_task

from apps.jobs.arguments import PlainTypes
from apps.jobs.models import DeadLetter, Job
from apps.jobs.task import JobTask
from tests.jobs.bench import Bench

ran: list[Any] = []


@shared_task(name="tests.take_number", bind=True, autoretry_for=(Exception,), max_retries=3)
def take_number(self: JobTask, number: int) -> None:
    ran.append(number)


@shared_task(name="tests.take_token", sensitive=("token",))
def take_token(token: str) -> None:
    ran.append(token)


@shared_task(name="tests.take_unchecked", typing=False)
def take_unchecked(number: int) -> None:
    ran.append(number)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def takes(annotation: Any, value: Any) -> bool:
    def run(argument: Any) -> None: ...

    run.__annotations__["argument"] = annotation
    try:
        PlainTypes(run).check([value], {})
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("annotation", [int, "int"], ids=repr)
def test_only_a_whole_number_is_an_int(annotation: Any) -> None:
    assert takes(annotation, 7)
    assert not any(takes(annotation, value) for value in (7.0, "7", True, None, [7], {"id": 7}))


def test_a_whole_number_will_do_for_a_float() -> None:
    assert takes(float, 7.5)
    assert takes(float, 7)
    assert not any(takes(float, value) for value in ("7.5", True, None))


def test_a_text_and_a_truth_are_nothing_else() -> None:
    assert takes(str, "")
    assert not any(takes(str, value) for value in (7, None, ["a"]))
    assert takes(bool, False)
    assert not any(takes(bool, value) for value in (0, 1, "true", None))


@pytest.mark.parametrize(
    "annotation",
    [int | None, "int | None", list[int], datetime, Any, Annotated[int, "an order's"], inspect.Parameter.empty],
)
def test_no_other_annotation_is_looked_at(annotation: Any) -> None:
    assert all(takes(annotation, value) for value in (7, "7", None, [7], datetime(2024, 2, 5, tzinfo=UTC)))


def test_a_default_of_none_says_that_none_will_do() -> None:
    def run(argument: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013 - as older code says it

    PlainTypes(run).check([None], {})


def test_arguments_are_known_however_they_were_passed() -> None:
    def run(first: Any, *others: int, last: int = 0, **more: int) -> None: ...

    types = PlainTypes(run)
    types.check(["a", "b", "c"], {"last": 1, "others": "d", "more": "e"})
    with pytest.raises(TypeError, match=r"^last has to be of the type int, not str\.$"):
        types.check(["a"], {"last": "1"})


@pytest.mark.parametrize("call", [lambda: take_number.delay("7"), lambda: take_number.delay(number="7")])
def test_a_wrong_type_is_a_dead_letter_without_a_retry(bench: Bench, call: Callable[[], Any]) -> None:
    result = call()
    bench.run_all()
    assert ran == []
    assert bench.letter(result).kind == DeadLetter.Kind.WRONG_ARGUMENTS
    assert Job.objects.get().retries == 0


def test_what_is_sealed_is_opened_before_it_is_judged(bench: Bench) -> None:
    good, bad = take_token.delay("correct horse"), take_token.delay(["battery staple"])
    bench.run_all()
    assert ran == ["correct horse"]
    assert bench.job(good).state == Job.State.SUCCEEDED
    letter = bench.letter(bad)
    assert (letter.kind, letter.message) == ("wrong_arguments", "token has to be of the type str, not list.")


def test_a_task_that_has_its_arguments_unchecked_gets_what_came(bench: Bench) -> None:
    take_unchecked.delay("7")
    bench.run_all()
    assert ran == ["7"]
