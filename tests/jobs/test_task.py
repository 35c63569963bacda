"""`.delay()` and `.apply_async()`: what they write, and that they mean what they mean in Celery."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import celery
import psycopg
import pytest
from celery import current_app, group, shared_task, states
from celery.app.annotations import prepare as prepare_annotations
from celery.exceptions import Ignore, QueueNotFound, Reject
from celery.result import AsyncResult
from django.conf import settings
from django.contrib.auth.models import User
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.test import override_settings
from django.utils import timezone
from kombu.utils.json import dumps

from apps.jobs import backpressure, jsonb, ledger
from apps.jobs.ids import job_id_of
from apps.jobs.models import DeadLetter, Job
from apps.jobs.snooze import Snooze
from apps.jobs.task import JobTask
from tasks.catalog import sync_to_external_api
from tasks.lab import lab_add, lab_fail, lab_flaky, lab_nothing, lab_nothing_broker_only, lab_secret, lab_total
from tests.jobs.bench import Bench
from tests.nobody import NOBODY

seen: list[Any] = []
NOWHERE = f"redis://{NOBODY}/0"


@shared_task(bind=True, name="tests.look_at_request")
def look_at_request(self: JobTask, *args: Any) -> None:
    seen.append({"args": args, **vars(self.request)})


@shared_task(name="tests.take_anything")
def take_anything(value: Any) -> None:
    seen.append(value)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def job_of(result: AsyncResult) -> Job:
    return Job.objects.get(pk=result.id)


def seconds_from_now(moment: datetime) -> float:
    return (moment - timezone.now()).total_seconds()


# --- Transactions -----------------------------------------------------------------------------------------------------


def test_a_rolled_back_transaction_leaves_no_job(bench: Bench) -> None:
    with transaction.atomic():
        lab_nothing.delay()
        transaction.set_rollback(True)
    assert not Job.objects.exists()


@pytest.mark.parametrize("name", ["delay_on_commit", "apply_async_on_commit"])
def test_what_celery_starts_on_commit_is_in_the_transaction(bench: Bench, name: str) -> None:
    with transaction.atomic():
        getattr(lab_nothing, name)()
        assert Job.objects.count() == 1
        transaction.set_rollback(True)
    assert not Job.objects.exists()


def test_a_broker_only_job_waits_for_the_commit_if_it_is_asked_to(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    monkeypatch.setattr(JobTask, "_publish", lambda *_: seen.append("published"))
    with django_capture_on_commit_callbacks(execute=True):
        lab_nothing_broker_only.delay_on_commit()
        assert seen == []
    assert seen == ["published"]


@pytest.mark.django_db(transaction=True)
def test_a_commit_leaves_exactly_one_job() -> None:
    with transaction.atomic():
        result = lab_nothing.delay()
    assert [job.pk for job in Job.objects.all()] == [UUID(result.id)]


@pytest.fixture
def statements(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is sent to the database from now on, by Django or around it. The depth of the queue is known already."""
    backpressure.admit("default", 0)
    sent: list[Any] = []
    execute = psycopg.Cursor.execute

    def noted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        sent.append(query)
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return sent


def test_delay_is_one_statement(statements: list[Any]) -> None:
    lab_nothing.delay()
    assert len(statements) == 1


def test_many_jobs_are_one_statement(bench: Bench, statements: list[Any]) -> None:
    ids = lab_add.delay_many([{"x": x, "y": 1} for x in range(250)])
    assert len(statements) == 1
    bench.run_all()
    assert [AsyncResult(str(job_id)).get() for job_id in ids] == list(range(1, 251))


def test_no_jobs_at_all_are_no_statement(statements: list[Any]) -> None:
    assert lab_add.delay_many([]) == []
    assert statements == []


def test_many_broker_only_jobs_are_no_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def publish(self: JobTask, args: Any, kwargs: Any, task_id: str, *rest: Any) -> AsyncResult:
        sent.append(kwargs)
        return AsyncResult(task_id or "")

    monkeypatch.setattr(JobTask, "_publish", publish)
    monkeypatch.setattr(lab_add, "durable", False)
    lab_add.delay_many([{"x": 1, "y": 1}, {"x": 2, "y": 2}])
    assert sent == [{"x": 1, "y": 1}, {"x": 2, "y": 2}]
    assert not Job.objects.exists()


def test_delay_of_a_durable_task_asks_no_broker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("A message was published.")

    monkeypatch.setattr("kombu.Producer.publish", refuse)
    monkeypatch.setattr("kombu.Connection.connect", refuse)
    monkeypatch.setattr("kombu.Connection.ensure_connection", refuse)
    assert job_of(lab_nothing.delay()).state == Job.State.QUEUED


# --- Options ----------------------------------------------------------------------------------------------------------


def test_a_task_that_is_sent_by_its_name_goes_through_the_ledger_too(bench: Bench) -> None:
    result = current_app.send_task("tasks.lab_add", args=[1], kwargs={"y": 2}, queue="low")
    job = job_of(result)
    assert (job.task, job.args, job.kwargs, job.queue) == ("tasks.lab_add", [1], {"y": 2}, "low")


def test_what_celery_takes_by_position_is_taken_when_a_task_is_sent_by_its_name(bench: Bench) -> None:
    job = job_of(current_app.send_task("tasks.lab_add", (1, 2), {}, 600, None, "import-2024-02"))
    assert seconds_from_now(job.run_at) == pytest.approx(600, abs=5)
    assert job.pk == job_id_of("import-2024-02")


def test_a_countdown_waits_in_the_ledger(bench: Bench) -> None:
    result = lab_nothing.apply_async(countdown=600)
    assert seconds_from_now(job_of(result).run_at) == pytest.approx(600, abs=5)
    assert bench.run_due() == 0


@pytest.mark.parametrize("zone", [UTC, None], ids=["aware", "naive"])
def test_an_eta_without_a_zone_is_in_the_apps_own(bench: Bench, zone: Any) -> None:
    at = datetime(2050, 2, 5, 9, tzinfo=zone)
    assert job_of(lab_nothing.apply_async(eta=at)).run_at == datetime(2050, 2, 5, 9, tzinfo=UTC)


def test_an_eta_in_the_past_is_due_now(bench: Bench) -> None:
    lab_nothing.apply_async(eta=timezone.now() - timedelta(days=1))
    assert bench.run_due() == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"countdown": 10**12},
        {"countdown": -(10**12)},
        {"countdown": float("inf")},
        {"countdown": float("nan")},
        {"countdown": timedelta(seconds=5)},
        {"expires": 10**12},
        {"eta": datetime.max.replace(tzinfo=timezone.get_fixed_timezone(-60))},
    ],
    ids=str,
)
def test_a_time_that_nobody_could_read_again_is_refused_at_once(bench: Bench, asked: dict[str, Any]) -> None:
    with pytest.raises((OverflowError, ValueError, TypeError)):
        lab_nothing.apply_async(**asked)
    assert list(Job.objects.all()) == []


@pytest.mark.parametrize("expires", [60, 60.0, timedelta(seconds=60)], ids=["int", "float", "datetime"])
def test_a_job_can_expire(bench: Bench, expires: Any) -> None:
    moment = timezone.now() + expires if isinstance(expires, timedelta) else expires
    expires_at = job_of(lab_nothing.apply_async(expires=moment)).expires_at
    assert expires_at is not None
    assert seconds_from_now(expires_at) == pytest.approx(60, abs=5)


def test_an_expired_job_is_a_dead_letter_and_never_runs(bench: Bench) -> None:
    result = look_at_request.apply_async(expires=-1)
    bench.run_due()
    assert seen == []
    assert bench.letter(result).kind == DeadLetter.Kind.EXPIRED


def test_a_queue_is_taken_from_the_call_before_the_routes(bench: Bench) -> None:
    assert job_of(lab_nothing.delay()).queue == "default"
    assert job_of(lab_nothing.apply_async(queue="low")).queue == "low"


@pytest.mark.parametrize("queue", [None, "high"])
def test_a_map_goes_to_the_queue_of_its_task(bench: Bench, queue: str | None) -> None:
    options = {"queue": queue} if queue else {}
    push = sync_to_external_api
    jobs = [push.map([1, 2]).apply_async(**options), push.starmap([(1,), (2,)]).apply_async(**options)]
    [chunk] = push.chunks([(1,), (2,)], 2).apply_async(**options)
    assert [job_of(result).queue for result in (*jobs, chunk)] == [queue or "io"] * 3


def test_a_map_calls_its_task_with_each(bench: Bench) -> None:
    take_anything.map([1, 2]).delay()
    take_anything.starmap([(1,), (2,)]).delay()
    take_anything.chunks([(1,), (2,)], 1).apply_async()
    bench.run_all()
    assert seen == [1, 2] * 3


def test_a_queue_that_does_not_exist_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises(QueueNotFound):
        lab_nothing.apply_async(queue="lwo")
    assert not Job.objects.exists()


def test_priority_and_headers_and_shadow_arrive_at_the_worker(bench: Bench) -> None:
    look_at_request.apply_async(priority=7, headers={"tenant": "north"}, shadow="look")
    [message] = bench.send()
    bench.deliver(message)
    assert job_of_only().priority == 7
    assert seen[0]["headers"]["tenant"] == "north"
    assert message.headers["shadow"] == "look"


def test_a_task_may_say_by_which_name_its_job_is_shown(bench: Bench) -> None:
    def name_of(task: JobTask, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]) -> str:
        return f"{task.name} of {args[0]}"

    shown = shared_task(name="tests.shown", shadow_name=name_of)(take_anything.run)
    shown.delay("north")
    assert bench.send()[0].headers["shadow"] == "tests.shown of north"


def job_of_only() -> Job:
    return Job.objects.get()


def test_time_limits_of_the_call_arrive_at_the_worker(bench: Bench) -> None:
    look_at_request.apply_async(time_limit=9, soft_time_limit=8)
    bench.run_due()
    assert list(seen[0]["timelimit"]) == [9, 8]


@pytest.mark.parametrize(
    ("limits", "struck_at"),
    [({"time_limit": 9}, [9, 9]), ({"time_limit": 999}, [999, 240]), ({"soft_time_limit": 8}, [300, 8])],
    ids=["hard before the task's soft", "hard after it", "soft"],
)
def test_a_hard_limit_of_the_call_strikes_though_the_tasks_soft_one_is_later(
    bench: Bench, limits: dict[str, float], struck_at: list[float]
) -> None:
    """The pool looks at a hard limit only when the soft one has struck."""
    look_at_request.apply_async(**limits)
    [message] = bench.send()
    assert list(bench.request(message).time_limits) == struck_at


def test_a_job_has_the_id_that_the_caller_chose(bench: Bench) -> None:
    chosen = str(uuid4())
    assert lab_nothing.apply_async(task_id=chosen).id == chosen
    assert job_of_only().pk == UUID(chosen)


def test_an_id_may_be_a_uuid(bench: Bench) -> None:
    chosen = uuid4()
    result = lab_add.apply_async((1, 2), task_id=chosen)
    assert result.id == str(chosen)
    assert AsyncResult(chosen).state == states.PENDING
    AsyncResult(chosen).revoke()
    assert AsyncResult(chosen).state == states.REVOKED


def test_an_id_that_is_no_uuid_finds_its_job_again(bench: Bench) -> None:
    lab_add.apply_async((1, 2), task_id="import-2024-02")
    bench.run_all()
    assert AsyncResult("import-2024-02").get() == 3


def test_the_same_id_twice_is_one_job(bench: Bench) -> None:
    chosen = str(uuid4())
    first, second = (lab_nothing.apply_async(task_id=chosen) for _ in range(2))
    assert (first.created, second.created) == (True, False)
    assert Job.objects.count() == 1


def test_an_argument_that_is_missing_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises(TypeError):
        lab_add.delay(1)
    with pytest.raises(TypeError):
        lab_add.delay_many([{"x": 1}])
    assert not Job.objects.exists()


@pytest.mark.parametrize("call", [{"args": "7"}, {"args": {"value": 7}}, {"args": {7}}, {"kwargs": [("value", 7)]}])
def test_arguments_that_are_no_list_or_no_mapping_are_refused_as_by_celery(bench: Bench, call: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        take_anything.apply_async(**call)
    assert not Job.objects.exists()


def test_an_argument_that_is_no_json_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises((TypeError, ValueError)):
        lab_total.delay([object()])
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "datetime", "__value__": "tomorrow"},
        {"__type__": "decimal", "__value__": "much"},
        {"__type__": "uuid", "__value__": "x"},
        {"__type__": "mood", "__value__": 1},
    ],
)
def test_an_argument_that_no_relay_could_read_again_is_refused_at_once(bench: Bench, value: Any) -> None:
    """It was a row, and stopped every relay that took it, for all queues."""
    with pytest.raises(ValueError, match="Celery's JSON"):
        lab_total.delay([value])
    with pytest.raises(ValueError, match="Celery's JSON"):
        lab_total.delay_many([{"numbers": [value]}, {"numbers": []}])
    assert not Job.objects.exists()


@pytest.mark.parametrize("value", ["a\x00b", "half \ud800", float("nan"), [float("inf")], {"\x00": 1}])
@pytest.mark.parametrize("number", [1, 2])
def test_an_argument_that_postgresql_cannot_store_is_refused_before_it_is_asked(
    bench: Bench, value: Any, number: int
) -> None:
    """It would take the caller's transaction along."""
    with pytest.raises(ValueError):  # noqa: PT011 - a codec's, json's and ours: each says what it does not like
        look_at_request.delay(value) if number == 1 else take_anything.delay_many([{"value": value}] * 2)
    assert not Job.objects.exists()


@pytest.mark.parametrize("levels", [700, 900])
def test_what_is_nested_deeper_than_a_relay_can_read_is_refused_before_it_is_asked(levels: int) -> None:
    """By a program that has called nothing yet: a relay has, when it reads the row, and would end."""
    value: Any = "core"
    for level in range(levels):
        value = [value] if level % 2 else {"inner": value}
    with ThreadPoolExecutor() as fresh:
        refused = fresh.submit(jsonb.dumps, [value]).exception()
    assert isinstance(refused, ValueError) == (levels == 900)


def test_what_only_looks_like_it_is_stored(bench: Bench) -> None:
    look_at_request.delay("C:\\u0000", "\\ud800", "\U0001f600", "\\\\u0000")
    bench.run_due()
    assert tuple(seen[0]["args"]) == ("C:\\u0000", "\\ud800", "\U0001f600", "\\\\u0000")


def test_arguments_keep_the_types_that_celery_keeps(bench: Bench) -> None:
    at, number = datetime(2024, 2, 5, 9, tzinfo=UTC), uuid4()
    look_at_request.delay(at, number)
    bench.run_due()
    assert list(seen[0]["args"]) == [at, number]


def test_link_runs_after_success_and_gets_the_result(bench: Bench) -> None:
    callback = lab_add.s(10)
    result = lab_add.apply_async((1, 2), link=callback)
    bench.run_all()
    following = Job.objects.exclude(pk=result.id).get()
    assert (following.result, following.parent_id) == (13, UUID(result.id))


def test_link_error_runs_after_the_job_has_died(bench: Bench) -> None:
    result = lab_fail.apply_async(link_error=look_at_request.s())
    bench.run_all()
    assert job_of(result).state == Job.State.DEAD
    assert len(seen) == 1


def test_link_error_runs_after_a_job_that_expired(bench: Bench) -> None:
    result = lab_nothing.apply_async(expires=-1, link_error=look_at_request.s())
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.EXPIRED
    assert [each["args"] for each in seen] == [[result.id]]


def test_a_task_called_as_a_function_is_only_a_function(bench: Bench) -> None:
    assert lab_add(1, 2) == 3
    assert not Job.objects.exists()


@shared_task(name="tests.factorial", ignore_result=False)
def factorial(number: int) -> int:
    return 1 if number < 2 else number * factorial(number - 1)


@pytest.mark.parametrize("atomic", [False, True])
def test_a_task_that_calls_itself_as_a_function_ends_once_with_its_own_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    monkeypatch.setattr(factorial, "atomic", atomic)
    result = factorial.apply_async((5,), link=take_anything.s())
    bench.run_all()
    assert (job_of(result).state, job_of(result).result, seen) == (Job.State.SUCCEEDED, 120, [120])


@shared_task(name="tests.retry_within_itself", bind=True, max_retries=1)
def retry_within_itself(self: JobTask, is_inner: bool = False) -> None:
    if self.request.retries:
        return
    if is_inner:
        raise self.retry(exc=ValueError("not yet"))
    self(is_inner=True)


def test_a_retry_that_it_asks_for_then_is_the_jobs(bench: Bench) -> None:
    result = retry_within_itself.delay()
    bench.run_due()
    assert (job_of(result).state, job_of(result).retries) == (Job.State.QUEUED, 1)
    bench.run_all()
    assert job_of(result).state == Job.State.SUCCEEDED


# --- Eager ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager() -> Any:
    from celery import current_app

    current_app.conf.task_always_eager = True
    yield
    current_app.conf.task_always_eager = False


def test_eager_mode_runs_at_once_and_writes_nothing(bench: Bench, eager: None) -> None:
    assert lab_add.delay(1, 2).get() == 3
    assert not Job.objects.exists()


def test_eager_mode_opens_what_is_sealed(bench: Bench, eager: None) -> None:
    result = lab_secret.delay("open sesame", fail=False)
    assert result.state == states.SUCCESS


def test_apply_runs_here_and_now(bench: Bench) -> None:
    assert lab_add.apply((1, 2)).get() == 3
    assert not Job.objects.exists()


# --- Attempts ---------------------------------------------------------------------------------------------------------


class Unreachable(Exception):
    pass


@shared_task(name="tests.fail_twice", bind=True, autoretry_for=(Unreachable,), max_retries=5, retry_backoff=10)
def fail_twice(self: JobTask) -> None:
    seen.append(self.request.retries)
    if self.request.retries < 2:
        raise Unreachable("nobody there")


@shared_task(name="tests.retry_by_hand", bind=True, max_retries=1)
def retry_by_hand(self: JobTask, countdown: float = 3600) -> None:
    raise self.retry(exc=Unreachable("nobody there"), countdown=countdown)


@shared_task(name="tests.retry_elsewhere", bind=True)
def retry_elsewhere(self: JobTask, x: int) -> None:
    seen.append(x)
    if x == 1:
        raise self.retry(args=[2], queue="low", countdown=60)


def test_a_retry_is_the_same_job_later(bench: Bench) -> None:
    result = fail_twice.delay()
    bench.run_due()
    job = job_of(result)
    assert (job.state, job.retries, job.attempts) == (Job.State.QUEUED, 1, 1)
    assert -5 < seconds_from_now(job.run_at) <= 10
    assert (result.state, job.errors[0]["message"]) == (states.RETRY, "nobody there")
    bench.run_all()
    assert seen == [0, 1, 2]
    assert (job_of(result).state, job_of(result).attempts) == (Job.State.SUCCEEDED, 3)


def test_backoff_grows_with_each_retry(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda longest: longest - 1)  # full jitter at its longest
    result = fail_twice.delay()
    waits = []
    for _ in range(2):
        bench.run_due()
        waits.append(round(seconds_from_now(job_of(result).run_at)))
        Job.objects.update(run_at=timezone.now())
    assert waits == [10, 20]


class OutOfStock(Unreachable):
    pass


def fail_with(error: str) -> None:
    seen.append(error)
    raise {"unreachable": Unreachable, "out of stock": OutOfStock}[error]("nobody there")


RETRIED_SOON: dict[str, Any] = {"autoretry_for": (Unreachable,), "max_retries": 2, "default_retry_delay": 1}
# Retried without a limit, and the second wait would be 20 s, and the third 40.
BACKOFF: dict[str, Any] = {"autoretry_for": (Unreachable,), "max_retries": None, "retry_backoff": 10}
steady = shared_task(name="tests.steady", **BACKOFF, retry_jitter=False)(fail_with)
capped = shared_task(name="tests.capped", **BACKOFF, retry_jitter=False, retry_backoff_max=15)(fail_with)


@pytest.mark.parametrize(("task", "waits"), [(steady, [10, 20, 40]), (capped, [10, 15, 15])], ids=["steady", "capped"])
def test_backoff_without_jitter_doubles_exactly_and_no_further_than_its_maximum(
    bench: Bench, task: JobTask, waits: list[int]
) -> None:
    result = task.delay("unreachable")
    for wait in waits:
        bench.run_due()
        assert seconds_from_now(job_of(result).run_at) == pytest.approx(wait, abs=2)
        Job.objects.update(run_at=timezone.now())


def test_jitter_waits_for_any_part_of_the_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda longest: longest // 2)
    result = fail_twice.delay()
    bench.run_due()
    assert seconds_from_now(job_of(result).run_at) == pytest.approx(5, abs=2)


choosy = shared_task(name="tests.choosy", dont_autoretry_for=(OutOfStock,), **RETRIED_SOON)(fail_with)
expecting = shared_task(name="tests.expecting", throws=(OutOfStock,), **RETRIED_SOON)(fail_with)
by_kwargs = shared_task(
    name="tests.by_kwargs", autoretry_for=(Unreachable,), retry_kwargs={"max_retries": 1, "countdown": 300}
)(fail_with)


def test_an_error_that_is_named_in_dont_autoretry_for_is_permanent_though_its_parent_is_retried(bench: Bench) -> None:
    retried, permanent = choosy.delay("unreachable"), choosy.delay("out of stock")
    bench.run_all()
    assert seen.count("unreachable") == 3
    assert seen.count("out of stock") == 1
    assert (bench.letter(retried).kind, bench.letter(permanent).kind) == ("exhausted", "permanent")


def test_an_error_that_a_task_throws_is_retried_and_dies_like_any_other_and_is_logged_as_no_alarm(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """`throws` says how it is logged: "expected", at INFO and without a traceback."""
    caplog.set_level("INFO", logger="celery.app.trace")
    expected, other = expecting.delay("out of stock"), expecting.delay("unreachable")
    bench.run_all()
    assert (bench.letter(expected).kind, bench.letter(other).kind) == ("exhausted", "exhausted")
    levels = {
        record.levelname
        for record in caplog.records
        if record.name == "celery.app.trace" and expected.id in record.getMessage() and "raised" in record.getMessage()
    }
    assert levels == {"INFO"}


def test_retry_kwargs_say_how_often_and_when(bench: Bench) -> None:
    result = by_kwargs.delay("unreachable")
    bench.run_due()
    assert seconds_from_now(job_of(result).run_at) == pytest.approx(300, abs=2)
    bench.run_all()
    assert (len(seen), bench.letter(result).kind) == (2, "exhausted")


def test_a_retry_by_hand_waits_as_long_as_it_says(bench: Bench) -> None:
    result = retry_by_hand.delay()
    bench.run_due()
    assert seconds_from_now(job_of(result).run_at) == pytest.approx(3600, abs=5)


def test_the_last_retry_leaves_a_dead_letter_with_the_error_itself(bench: Bench) -> None:
    result = retry_by_hand.delay()
    bench.run_all()
    letter = bench.letter(result)
    assert (letter.kind, letter.exception, letter.message) == ("exhausted", "Unreachable", "nobody there")
    assert (letter.attempts, len(job_of(result).errors)) == (2, 2)


class NobodyThere(Unreachable):
    """It cannot be pickled and read again, as many that take more than a text."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"nobody at {host}:{port}")


@shared_task(name="tests.fail_with_host_and_port", autoretry_for=(NobodyThere,), max_retries=1)
def fail_with_host_and_port() -> None:
    raise NobodyThere("north", 80)


def test_an_error_that_cannot_be_pickled_is_kept_by_its_own_name(bench: Bench) -> None:
    result = fail_with_host_and_port.delay()
    bench.run_all()
    errors = [(error["exception"], error["message"]) for error in job_of(result).errors]
    assert errors == [("NobodyThere", "nobody at north:80")] * 2
    assert bench.letter(result).kind == "exhausted"


def test_an_attempt_whose_lease_is_lost_when_it_would_retry_does_not_bury_the_next_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash of PostgreSQL both may have the same token: only that the retry was refused tells them apart."""

    def refuse(job_id: UUID, *_: Any) -> None:
        raise ledger.LeaseLost(f"Job {job_id} is no longer ours.")

    result = lab_flaky.delay(failures=1)
    [message] = bench.send()
    monkeypatch.setattr(ledger, "retry", refuse)
    bench.deliver(message)
    assert bench.job(result).state == Job.State.RUNNING
    assert not DeadLetter.objects.exists()


def test_a_retry_may_change_its_arguments_and_its_queue(bench: Bench) -> None:
    result = retry_elsewhere.delay(1)
    bench.run_due()
    job = job_of(result)
    assert (job.args, job.queue) == ([2], "low")
    bench.run_all()
    assert seen == [1, 2]
    assert job_of(result).state == Job.State.SUCCEEDED


@shared_task(name="tests.retry_until", bind=True)
def retry_until(self: JobTask, expires: float | None) -> None:
    raise self.retry(countdown=60, **({"expires": expires} if expires else {}))


@pytest.mark.parametrize(("expires", "then"), [(3600, 3600), (None, 90)])
def test_a_retry_expires_when_it_says_or_else_with_its_job(bench: Bench, expires: float | None, then: float) -> None:
    result = retry_until.apply_async([expires], expires=90)
    bench.run_due()
    expires_at = job_of(result).expires_at
    assert expires_at is not None
    assert seconds_from_now(expires_at) == pytest.approx(then, abs=10)


def test_a_retry_waits_since_its_own_time_and_keeps_the_callers_headers(bench: Bench) -> None:
    result = fail_twice.apply_async(headers={"tenant": "north"})
    [first] = bench.send()
    bench.deliver(first)
    ledger.hurry([UUID(result.id)])
    [second] = bench.send()
    assert second.headers["due"] == pytest.approx(job_of(result).run_at.timestamp())
    assert second.headers["due"] > first.headers["due"]
    assert job_of(result).options["headers"] == {"tenant": "north"}


def test_a_message_of_an_earlier_attempt_does_not_skip_the_backoff(bench: Bench) -> None:
    fail_twice.delay()
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    Job.objects.update(run_at=timezone.now())
    bench.deliver(message)
    assert seen == [0]


def test_a_message_delivered_ten_times_runs_once(bench: Bench) -> None:
    look_at_request.delay()
    [message] = bench.send()
    for _ in range(10):
        bench.deliver(message)
    assert len(seen) == 1
    assert job_of_only().attempts == 1


def test_an_error_that_nobody_retries_is_permanent(bench: Bench) -> None:
    result = lab_fail.delay("broken")
    bench.run_due()
    job, letter = job_of(result), bench.letter(result)
    assert (job.state, job.attempts, letter.kind) == (Job.State.DEAD, 1, "permanent")
    assert letter.message == "broken"
    assert "lab_fail" in letter.traceback


@pytest.mark.parametrize("task_id", ["3b5c1f50-5c0e-4e0e-9d5c-0d3c3c9a1f11", "no-uuid"])
def test_a_message_of_a_stranger_gets_a_row(bench: Bench, task_id: str) -> None:
    """Flower, or a service that knows Celery and not the ledger, publishes to the queue itself."""
    lab_add.delay(1, 2)
    [message] = bench.send()
    Job.objects.all().delete()
    del message.headers["ledger"]
    message.headers["id"] = task_id
    bench.deliver(message)
    assert job_of_only().result == 3
    assert AsyncResult(task_id).get() == 3


def test_the_secrets_of_a_stranger_are_sealed_in_its_row_and_masked_in_its_error(bench: Bench) -> None:
    secret = "sk_live_of_another_service"
    lab_secret.delay(token="anything")
    [message] = bench.send()
    Job.objects.all().delete()
    del message.headers["ledger"]
    bench.deliver(replace(message, body=dumps([[], {"token": secret}, {}])))
    assert job_of_only().state == Job.State.DEAD
    for row in (*Job.objects.values(), *DeadLetter.objects.values()):
        assert secret not in str(row)


def test_a_message_of_a_stranger_that_cannot_become_a_row_is_a_dead_letter(bench: Bench) -> None:
    lab_add.delay(1, 2)
    [message] = bench.send()
    Job.objects.all().delete()
    del message.headers["ledger"]
    bench.deliver(replace(message, queue="a queue of RabbitMQ's own"))
    assert not Job.objects.exists()
    letter = DeadLetter.objects.get()
    assert (letter.task, letter.args, letter.exception) == ("tasks.lab_add", [1, 2], "QueueNotFound")


# --- Hooks of a task's own --------------------------------------------------------------------------------------------


class WithHooks(JobTask):
    """As Celery's users write it: without `super()`, because Celery's own hooks do nothing."""

    abstract = True

    def before_start(self, *args: Any) -> None:
        seen.append("before_start")

    def on_success(self, *args: Any) -> None:
        seen.append("on_success")

    def on_retry(self, *args: Any) -> None:
        seen.append("on_retry")

    def on_failure(self, *args: Any) -> None:
        seen.append("on_failure")

    def after_return(self, *args: Any) -> None:
        seen.append("after_return")


class WithPoliteHooks(WithHooks):
    abstract = True

    def on_retry(self, *args: Any) -> None:
        super().on_retry(*args)

    def on_failure(self, *args: Any) -> None:
        super().on_failure(*args)


def fail_or_not(fail: bool) -> None:
    if fail:
        raise Unreachable("nobody there")


RETRIED: dict[str, Any] = {"autoretry_for": (Unreachable,), "max_retries": 1, "retry_backoff": 1}
hooked = shared_task(base=WithHooks, name="tests.hooked", **RETRIED)(fail_or_not)
politely_hooked = shared_task(base=WithPoliteHooks, name="tests.politely_hooked", **RETRIED)(fail_or_not)


@pytest.mark.parametrize("task", [hooked, politely_hooked])
def test_a_tasks_own_hooks_are_called_and_do_not_stand_before_the_ledgers(bench: Bench, task: JobTask) -> None:
    good = task.delay(fail=False)
    bench.run_due()
    assert seen == ["before_start", "on_success", "after_return"]
    assert job_of(good).state == Job.State.SUCCEEDED
    seen.clear()
    bad = task.delay(fail=True)
    bench.run_due()
    assert (job_of(bad).state, job_of(bad).retries) == (Job.State.QUEUED, 1)
    bench.run_all()
    assert seen == ["before_start", "on_retry", "before_start", "on_failure", "after_return"]
    assert (job_of(bad).state, bench.letter(bad).kind) == (Job.State.DEAD, "exhausted")
    assert len(job_of(bad).errors) == 2


def test_hooks_that_are_given_to_the_decorator_are_called_too(bench: Bench) -> None:
    noted = shared_task(name="tests.noted", on_failure=lambda *_: seen.append("on_failure"))(_fail)
    result = noted.delay()
    bench.run_due()
    assert seen == ["on_failure"]
    assert job_of(result).state == Job.State.DEAD


class OfCelery(celery.Task):
    abstract = True
    max_retries = 1

    def on_failure(self, *args: Any) -> None:
        seen.append("on_failure")


def test_a_base_class_of_celerys_own_makes_jobs_as_well(bench: Bench) -> None:
    result = shared_task(base=OfCelery, name="tests.of_celery")(_fail).delay()
    bench.run_due()
    assert (job_of(result).state, seen) == (Job.State.DEAD, ["on_failure"])
    assert current_app.tasks["tests.of_celery"].max_retries == 1
    shared_task(base=celery.Task, name="tests.plainly_of_celery")(_fail)
    assert isinstance(current_app.tasks["tests.plainly_of_celery"], JobTask)


def test_a_class_of_celerys_own_is_no_task_here() -> None:
    with pytest.raises(TypeError, match="derive"):
        current_app.register_task(type("OfNobody", (OfCelery,), {"name": "tests.of_nobody"}))


class EndsBeforeItStarts(JobTask):
    abstract = True

    outcome: Exception

    def before_start(self, *args: Any) -> None:
        raise self.outcome


@shared_task(base=EndsBeforeItStarts, name="tests.ends_before_it_starts")
def ends_before_it_starts() -> None:
    seen.append("started")


@pytest.mark.parametrize(
    ("outcome", "end"),
    [(Ignore("nothing to do"), "succeeded"), (Reject("no"), "dead"), (Snooze(60), "queued"), (KeyError("k"), "dead")],
)
def test_a_hook_may_end_a_job_before_its_body_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: Exception, end: str
) -> None:
    monkeypatch.setattr(EndsBeforeItStarts, "outcome", outcome, raising=False)
    result = ends_before_it_starts.delay()
    bench.run_due()
    assert (job_of(result).state, seen) == (end, [])


def test_hooks_that_come_by_task_annotations_are_called_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Celery's documentation has it."""
    annotations = prepare_annotations({"tests.annotated": {"on_failure": lambda *_: seen.append("on_failure")}})
    monkeypatch.setitem(vars(current_app._get_current_object()), "annotations", annotations)
    annotated = shared_task(name="tests.annotated")(_fail)
    result = annotated.delay()
    bench.run_due()
    assert seen == ["on_failure"]
    assert job_of(result).state == Job.State.DEAD


def _fail() -> None:
    raise ValueError("broken")


class Around(JobTask):
    """As many a guide has it, to run each task within something: without `super()`, because `run` is the body."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("around")
        return self.run(*args, **kwargs)


class PolitelyAround(Around):
    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("politely")
        return super().__call__(*args, **kwargs)


def open_up(token: str) -> str:
    return token


AROUND: dict[str, Any] = {"sensitive": ("token",), "ignore_result": False}
around = shared_task(base=Around, name="tests.around", **AROUND)(open_up)
politely_around = shared_task(base=PolitelyAround, name="tests.politely_around", **AROUND)(open_up)


@pytest.mark.parametrize(("task", "then"), [(around, ["around"]), (politely_around, ["politely", "around"])])
def test_a_tasks_own_call_is_a_part_of_its_body(bench: Bench, task: JobTask, then: list[str]) -> None:
    result = task.delay(token="open sesame")
    bench.run_due()
    assert job_of(result).state == Job.State.SUCCEEDED
    assert (result.get(), seen) == ("open sesame", then)
    assert task.apply(kwargs={"token": "open sesame"}).get() == task("open sesame") == "open sesame"
    assert seen == then * 3


# --- AsyncResult ------------------------------------------------------------------------------------------------------


def test_a_result_goes_through_celerys_states(bench: Bench) -> None:
    result = lab_add.delay(1, 2)
    assert result.state == states.PENDING
    [message] = bench.send()
    assert result.state == states.PENDING
    bench.deliver(message)
    assert (result.state, result.get(), result.successful()) == (states.SUCCESS, 3, True)


def test_a_failed_result_raises_the_tasks_error(bench: Bench) -> None:
    result = lab_fail.delay("broken")
    bench.run_due()
    assert result.state == states.FAILURE
    with pytest.raises(Exception, match="broken"):
        result.get()


# --- A database that is away for longer than anybody waits ------------------------------------------------------------


def _away(*args: Any, **kwargs: Any) -> None:
    raise OperationalError("the server is away")


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("task", [lab_add, hooked])
def test_a_job_whose_attempt_could_not_be_written_runs_again_when_its_lease_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, task: JobTask
) -> None:
    """It had succeeded, or was to be retried: a letter that says "permanent" would be wrong."""
    result = task.delay(1, 2) if task is lab_add else task.delay(fail=True)
    for name in ("succeed", "retry"):
        monkeypatch.setattr(f"apps.jobs.ledger.{name}", _away)
    monkeypatch.setattr("apps.jobs.rescue.crashed", _away)
    bench.run_due()
    assert job_of(result).state == Job.State.RUNNING
    assert not DeadLetter.objects.exists()


# --- Atomic -----------------------------------------------------------------------------------------------------------


@shared_task(name="tests.add_a_user", atomic=True)
def add_a_user(name: str) -> None:
    User.objects.create(username=name)


@shared_task(name="tests.lose_the_lease", bind=True, atomic=True)
def lose_the_lease(self: JobTask, name: str) -> None:
    User.objects.create(username=name)
    Job.objects.filter(pk=self.request.id).update(token=99)


def test_an_atomic_task_whose_end_fails_has_done_nothing_and_runs_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.jobs import ledger

    succeed = ledger.succeed
    failures = iter([OperationalError("server closed the connection unexpectedly")])

    def fail_once(*args: Any) -> None:
        for failure in failures:
            raise failure
        succeed(*args)

    monkeypatch.setattr(ledger, "succeed", fail_once)
    result = add_a_user.delay("dora")
    bench.run_due()
    assert not User.objects.exists()
    bench.run_all()
    assert User.objects.count() == 1
    assert job_of(result).state == Job.State.SUCCEEDED


@shared_task(name="tests.go_on_after_an_error", atomic=True)
def go_on_after_an_error() -> None:
    with suppress(DataError), connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")


def test_a_task_that_goes_on_in_a_failed_transaction_has_a_bug_and_no_lost_database(bench: Bench) -> None:
    """PostgreSQL calls both an "internal error": this, and that a server is the primary no longer."""
    result = go_on_after_an_error.delay()
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT
    assert job_of(result).crashes == 0


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_that_lost_its_lease_has_done_nothing() -> None:
    lose_the_lease.delay("dora")
    Bench().run_due()
    assert not User.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_an_atomic_task_starts_is_committed_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.lab import lab_atomic

    monkeypatch.setattr("apps.jobs.ledger.succeed", _refuse_to_end)
    lab_atomic.delay()
    Bench().run_due()
    assert Job.objects.count() == 1, "a job was started by an attempt that did not count"


def _refuse_to_end(*args: Any) -> None:
    raise ValueError("not this time")


@shared_task(name="tests.end_early", bind=True, atomic=True, ignore_result=False)
def end_early(self: JobTask, how: str) -> None:
    User.objects.create(username="dora")
    match how:
        case "ignore":
            raise Ignore
        case "replace":
            self.replace(lab_add.s(20, 22))
        case "replace by many":
            self.replace(group(lab_add.s(20, 22), lab_add.s(1, 1)))
        case "snooze":
            raise Snooze(60)
        case "is there already":
            with suppress(IntegrityError):
                User.objects.create(username="dora")
            raise Ignore


@pytest.mark.parametrize("seconds", [1e12, float("inf"), float("nan")])
def test_a_job_cannot_be_put_off_until_a_time_that_nobody_could_read_again(seconds: float) -> None:
    with pytest.raises((OverflowError, ValueError)):
        Snooze(seconds)


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_that_ignores_itself_after_an_error_of_the_database_has_succeeded() -> None:
    result = end_early.delay("is there already")
    Bench().run_due()
    assert job_of(result).state == Job.State.SUCCEEDED
    assert not User.objects.exists()


@pytest.mark.parametrize(
    ("how", "then"),
    [("ignore", [end_early.name]), ("replace", [lab_add.name]), ("replace by many", [lab_add.name] * 2)],
)
@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_that_ends_early_keeps_what_it_has_done(how: str, then: list[str]) -> None:
    end_early.delay(how)
    Bench().run_due()
    assert User.objects.count() == 1
    assert list(Job.objects.values_list("task", flat=True)) == then


def _refuse_the_end(*_: Any) -> None:
    raise OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize(
    ("how", "end"), [("ignore", "succeed"), ("replace", "retry"), ("replace by many", "make_room")]
)
@pytest.mark.django_db(transaction=True)
def test_and_nothing_of_it_if_that_end_fails(monkeypatch: pytest.MonkeyPatch, how: str, end: str) -> None:
    monkeypatch.setattr(ledger, end, _refuse_the_end)
    end_early.delay(how)
    Bench().run_due()
    assert not User.objects.exists()
    assert Job.objects.get().state == Job.State.QUEUED


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_that_snoozes_or_cannot_be_replaced_has_done_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "make_room", lambda *_: False)  # cancelled meanwhile
    snoozed, cancelled = end_early.delay("snooze"), end_early.delay("replace by many")
    Bench().run_due()
    assert not User.objects.exists()
    assert (job_of(snoozed).state, job_of(cancelled).state) == (Job.State.QUEUED, Job.State.CANCELLED)
    assert Job.objects.count() == 2


@shared_task(name="tests.lock_then_fail", atomic=True)
def lock_then_fail() -> None:
    User.objects.create(username="dora")
    User.objects.select_for_update().get(username="dora")
    raise ZeroDivisionError


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_is_atomic_in_eager_mode_too() -> None:
    assert type(lock_then_fail.apply().result) is ZeroDivisionError
    end_early.apply(args=["snooze"])
    assert not User.objects.exists()
    end_early.apply(args=["ignore"])
    assert User.objects.count() == 1


# --- Snooze, and everything that is no end ----------------------------------------------------------------------------


@shared_task(name="tests.snooze_then_fail", bind=True, autoretry_for=(Unreachable,), max_retries=1, retry_backoff=1)
def snooze_then_fail(self: JobTask) -> None:
    seen.append(self.request.retries)
    if len(seen) < 4:
        raise Snooze(300, "rate limited")
    raise Unreachable("nobody there")


def test_a_snooze_costs_no_retry_and_no_attempt(bench: Bench) -> None:
    result = snooze_then_fail.delay()
    bench.run_due()
    job = job_of(result)
    assert (job.state, job.retries, job.attempts, job.errors) == (Job.State.QUEUED, 0, 0, [])
    assert seconds_from_now(job.run_at) == pytest.approx(300, abs=5)
    bench.run_all()
    assert seen == [0, 0, 0, 0, 1], "three snoozes, and then both tries"
    assert bench.letter(result).attempts == 2


def test_a_running_job_that_meets_a_full_queue_comes_back_later(bench: Bench) -> None:
    from config.queues import QueuePolicy

    result = start_another.delay()
    [message] = bench.send()
    backpressure._counted.clear()
    with override_settings(JOBS_QUEUES={**settings.JOBS_QUEUES, "low": QueuePolicy(max_depth=0, oldest_seconds=1)}):
        bench.deliver(message)
    job = job_of(result)
    assert (job.state, job.attempts, job.errors) == (Job.State.QUEUED, 0, [])
    assert seconds_from_now(job.run_at) > 5


@shared_task(name="tests.start_another")
def start_another() -> None:
    lab_nothing.apply_async(queue="low")


@shared_task(name="tests.ignore")
def ignore() -> None:
    raise Ignore


@shared_task(name="tests.reject", bind=True)
def reject(self: JobTask, requeue: bool) -> None:
    from celery.exceptions import Reject

    raise Reject("not now", requeue=requeue)


def test_a_task_that_ignores_itself_has_succeeded(bench: Bench) -> None:
    result = ignore.delay()
    bench.run_due()
    assert job_of(result).state == Job.State.SUCCEEDED


@shared_task(name="tests.say_that_it_failed", bind=True)
def say_that_it_failed(self: JobTask, meta: Any) -> None:
    self.update_state(state=states.FAILURE, meta=meta)
    raise Ignore


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("meta", [{"exc_type": "NoStock", "exc_message": "none left"}, "none left"])
def test_a_task_that_says_that_it_failed_and_ignores_itself_is_a_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, meta: Any, atomic: bool
) -> None:
    monkeypatch.setattr(say_that_it_failed, "atomic", atomic)
    result = say_that_it_failed.delay(meta)
    bench.run_all()
    assert (result.state, job_of(result).state) == (states.FAILURE, Job.State.DEAD)
    assert bench.letter(result).message == "none left"


def test_a_rejected_job_is_a_dead_letter_and_a_requeued_one_comes_back(bench: Bench) -> None:
    dead, back = reject.delay(requeue=False), reject.delay(requeue=True)
    bench.run_due()
    assert bench.letter(dead).kind == DeadLetter.Kind.REJECTED
    assert job_of(back).state == Job.State.QUEUED


@shared_task(name="tests.replace_itself", bind=True, ignore_result=False)
def replace_itself(self: JobTask) -> Any:
    return self.replace(lab_add.s(20, 22))


def test_a_task_can_replace_itself_and_keeps_its_id(bench: Bench) -> None:
    result = replace_itself.delay()
    bench.run_all()
    assert result.get() == 42
    assert Job.objects.count() == 1


def test_no_two_rows_of_a_job_in_json_differ_from_what_was_asked(bench: Bench) -> None:
    """Text that PostgreSQL's jsonb is picky about."""
    text = 'a "quoted" line\n with ünïcödé and a \\ and \u2028'
    result = lab_fail.delay(text)
    assert job_of(result).args == [text]
    bench.run_due()
    assert text.strip() in json.loads(json.dumps(bench.letter(result).message))
