"""Secrets: wherever a person or a program can look, they are not."""

import json
import logging
from dataclasses import replace
from typing import Any
from unittest.mock import ANY, Mock
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, current_app, group, shared_task

from apps.jobs import dead_letters, sensitive
from apps.jobs.failures import Failure
from apps.jobs.models import Chord, DeadLetter, Job
from apps.jobs.redaction import redact
from apps.jobs.task import JobTask
from tasks.lab import lab_fail, lab_nothing, lab_secret
from tests.jobs.bench import Bench, Message

SECRET = "correct horse battery staple"
got: list[Any] = []


@shared_task(name="tests.use_secret", sensitive=("token", "card"), bind=True, max_retries=1)
def use_secret(self: JobTask, token: str, card: dict[str, str] | None = None, retries: bool = False) -> str:
    got.append((token, card))
    logging.getLogger("tests").info("Using %s", token)
    if retries:
        raise self.retry(exc=ValueError(f"{token} was refused, and {card} too"))
    return f"{token} {card}"


@shared_task(name="tests.get_anything")
def get_anything(value: Any) -> None:
    got.append(value)


@pytest.fixture(autouse=True)
def nothing_got() -> None:
    got.clear()


def everything_in_the_database() -> str:
    return json.dumps([list(model.objects.values()) for model in (Job, DeadLetter, Chord)], default=str)


@pytest.mark.parametrize("call", [lambda: lab_secret.delay(SECRET), lambda: lab_secret.delay(token=SECRET)])
def test_a_secret_is_in_no_row_however_it_was_passed(bench: Bench, call: Any) -> None:
    call()
    assert SECRET not in everything_in_the_database()
    bench.run_all()
    assert DeadLetter.objects.count() == 1
    assert SECRET not in everything_in_the_database()


def test_a_secret_of_many_jobs_is_in_no_row(bench: Bench) -> None:
    lab_secret.delay_many([{"token": SECRET}, {"token": SECRET, "fail": False}])
    assert SECRET not in everything_in_the_database()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: lab_nothing.apply_async(link=use_secret.si(SECRET)),
        lambda: lab_fail.apply_async(("broken",), link_error=use_secret.si(token=SECRET)),
        lambda: chain(lab_nothing.si(), lab_nothing.si(), use_secret.si(SECRET)).apply_async(),
        lambda: chain(lab_nothing.si(), group(use_secret.si(SECRET)), lab_nothing.si()).apply_async(),
        lambda: chord([lab_nothing.si()], use_secret.si(token=SECRET)).apply_async(),
    ],
)
def test_a_secret_of_what_comes_next_is_in_no_row(bench: Bench, ask: Any) -> None:
    ask()
    assert SECRET not in everything_in_the_database()
    while Job.objects.filter(state=Job.State.QUEUED).exists():
        bench.run_due()
        assert SECRET not in everything_in_the_database()
    assert got == [(SECRET, None)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: lab_secret.map([SECRET]),
        lambda: lab_secret.starmap([(SECRET, False)]),
        lambda: lab_secret.chunks([(SECRET, False)], 1),
    ],
    ids=["map", "starmap", "chunks"],
)
def test_a_task_with_secrets_is_not_mapped(ask: Any) -> None:
    with pytest.raises(ValueError, match="secret arguments"):
        ask()


def test_a_secret_is_in_no_message(bench: Bench) -> None:
    lab_secret.delay(SECRET)
    [message] = bench.send()
    assert SECRET not in repr(message)
    assert "***" in message.headers["kwargsrepr"]


def test_a_secret_of_a_broker_only_task_is_sealed_when_it_is_sent_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(lab_secret, "durable", False)
    monkeypatch.setattr(Celery, "send_task", lambda *args, **options: sent.append((args, options)))
    current_app.send_task("tasks.lab_secret", kwargs={"token": SECRET, "fail": False})
    assert len(sent) == 1
    assert SECRET not in repr(sent)


def test_a_secret_is_in_no_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lab_secret.delay(SECRET)
    bench.run_all()
    assert "lab_secret" in caplog.text
    assert SECRET not in caplog.text


def test_a_secret_is_in_no_error_of_a_retry(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    use_secret.delay(SECRET, retries=True)
    bench.run_all()
    assert Job.objects.get().state == Job.State.DEAD
    assert SECRET not in everything_in_the_database()
    assert SECRET not in caplog.text


def test_the_task_itself_gets_what_was_passed(bench: Bench) -> None:
    use_secret.delay(SECRET, card={"number": "4242"})
    bench.run_all()
    assert got == [(SECRET, {"number": "4242"})]


def test_what_lies_inside_a_secret_is_a_secret_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    use_secret.delay("1234", card={"number": "4242424242424242"}, retries=True)
    bench.run_all()
    assert "4242424242424242" not in everything_in_the_database() + caplog.text


def test_a_line_that_the_task_logs_itself_has_no_secret(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    use_secret.delay(SECRET)
    bench.run_all()
    assert "Using ***" in caplog.text


def test_the_next_jobs_log_is_whole_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    use_secret.delay("nothing")
    bench.run_all()
    lab_fail.delay("nothing is wrong")
    bench.run_all()
    assert "nothing is wrong" in caplog.text


def test_a_secret_that_no_key_opens_any_more_is_a_permanent_error(bench: Bench, settings: Any) -> None:
    result = lab_secret.delay(SECRET)
    settings.SECRET_KEY = "a new one, and the old one is lost"
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT


def test_an_event_has_no_secret(bench: Bench) -> None:
    """Flower shows the error of a failed job from the event that the main process sends."""
    lab_secret.delay(SECRET)
    [message] = bench.send()
    sent = bench.request(message)
    sent.send_event("task-failed", exception=f"LabError('{SECRET}')", runtime=1.5)
    sent._eventer.send.assert_called_once_with("task-failed", uuid=ANY, exception="LabError('***')", runtime=1.5)


def test_a_replay_can_still_open_the_secret(bench: Bench) -> None:
    result = lab_secret.delay(SECRET)
    bench.run_all()
    replayed = dead_letters.replay(bench.letter(result).pk)
    bench.run_all()
    assert Job.objects.get(pk=replayed).errors[0]["message"] == "The token *** was refused."


def test_a_replay_opens_a_secret_without_a_name(bench: Bench) -> None:
    chord([lab_fail.s()], use_secret.si(SECRET)).apply_async()
    bench.run_all()
    dead_letters.replay(DeadLetter.objects.get(task=use_secret.name).pk)
    bench.run_all()
    assert got == [(SECRET, None)]


@pytest.mark.parametrize(("args", "kwargs"), [([SECRET], {}), ([], {"token": SECRET})], ids=["by place", "by name"])
def test_a_secret_that_a_stranger_sent_is_in_no_letter(bench: Bench, args: list[str], kwargs: dict[str, str]) -> None:
    message = Mock(
        headers={"task": use_secret.name, "id": "1"}, payload=(args, kwargs, {}), properties={}, delivery_info={}
    )
    dead_letters.write_for_message(message, Failure.delivered_too_often())
    assert SECRET not in everything_in_the_database()
    dead_letters.replay(DeadLetter.objects.get().pk)
    bench.run_all()
    assert got == [(SECRET, None)]


def test_a_secret_that_a_stranger_sent_without_its_name_is_in_no_error(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lab_secret.delay(SECRET)
    [ours] = bench.send()
    Job.objects.all().delete()
    headers = {name: value for name, value in ours.headers.items() if name != "ledger"}
    message = replace(ours, headers=headers, body=json.dumps([[SECRET], {}, {}]))
    sent = bench.request(message)
    sent.send_event("task-failed", exception=f"LabError('{SECRET}')")
    sent._eventer.send.assert_called_once_with("task-failed", uuid=ANY, exception="LabError('***')")
    bench.deliver(message)
    assert DeadLetter.objects.get().message == "The token *** was refused."
    assert SECRET not in everything_in_the_database() + caplog.text


def test_the_letter_of_a_task_that_is_shown_by_another_name_is_the_tasks_own(bench: Bench) -> None:
    """By the name that Celery calls `shadow`, nobody would know which of its arguments are secret."""
    headers = {"task": use_secret.name, "id": str(uuid4()), "shadow": "tests.nobody"}
    request = bench.request(Message(headers, json.dumps([[], {"token": SECRET}, {}]), "default"))
    dead_letters.write_for_request(request, Failure.worker_lost())
    assert DeadLetter.objects.get().task == use_secret.name
    assert SECRET not in everything_in_the_database()


@pytest.mark.parametrize("length", [3_000, 9_000])
def test_a_secret_that_is_longer_than_the_error_that_is_kept_is_in_none(bench: Bench, length: int) -> None:
    secret = "".join(f"-{number}" for number in range(length))[:length]
    lab_secret.delay(secret)
    bench.run_all()
    assert DeadLetter.objects.get().message == "The token *** was refused."
    assert secret[-50:] not in everything_in_the_database()


def test_a_secret_is_opened_with_an_older_key(settings: Any) -> None:
    sealed = sensitive.seal({"token": SECRET}, ["token"])
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new one"
    assert sensitive.unseal(sealed) == {"token": SECRET}


def test_sealing_twice_is_sealing_once() -> None:
    once = sensitive.seal({"token": SECRET}, ["token"])
    assert sensitive.seal(once, ["token"]) == once


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (sensitive.seal({"token": SECRET}, ["token"]), {"token": "***"}),
        ([{"inner": sensitive.seal({"token": SECRET}, ["token"])}], [{"inner": {"token": "***"}}]),
        ({"plain": 1}, {"plain": 1}),
    ],
    ids=["sealed", "deep inside", "nothing secret"],
)
def test_what_is_sealed_is_shown_as_stars(value: Any, shown: Any) -> None:
    assert sensitive.mask(value) == shown


def test_what_is_nested_deeper_than_anybody_looks_runs_and_is_shown_in_part(bench: Bench) -> None:
    value: Any = "core"
    for _ in range(600):
        value = [value]
    result = get_anything.delay(value)
    bench.run_due()
    assert bench.job(result).state == Job.State.SUCCEEDED
    assert got == [value]
    assert sensitive.TOO_DEEP in repr(sensitive.mask(value))


def test_a_secret_is_found_as_an_error_quotes_it() -> None:
    secret = 'it\'s\n"ünsafe"'
    found = sensitive.secrets_in(sensitive.seal({"token": secret}, ["token"]).values())
    in_a_url = f"https://api.example/?{urlencode({'token': secret}, quote_via=quote)}"
    for text in (repr(KeyError(secret)), repr({"token": secret}), json.dumps({"token": secret}), in_a_url):
        assert "nsafe" not in redact(text, found)


def test_a_short_secret_does_not_mask_half_the_error() -> None:
    assert sensitive.secrets_in(sensitive.seal({"pin": "42"}, ["pin"]).values()) == []


def test_what_only_looks_like_a_signature_is_left_to_celery() -> None:
    stranger = {"task": "tasks.lab_secret", "args": 5, "kwargs": None}
    assert sensitive.seal_signatures(stranger) == stranger
