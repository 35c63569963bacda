"""Log lines, as a machine reads them and as a person does."""

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import structlog
from celery import current_app
from celery.app.trace import LOG_RECEIVED
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse
from pytest_django import Settings

from apps.jobs import log_context
from apps.jobs.models import Job
from apps.jobs.origin import OriginMiddleware
from config.logging import FROM_ANYBODY, ExceptProbes, renderers
from tasks.lab import lab_add, lab_fail
from tests.jobs.bench import Bench

FORGED = "no such order\n2026-01-01 ERROR  all is lost\r\x1b[31mred\u2028"


def fail_with_it(logger: logging.Logger) -> None:
    try:
        int(FORGED)
    except ValueError:
        logger.exception("It said: %s", FORGED)


def written_as(chosen: str) -> tuple[logging.Handler, io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=FROM_ANYBODY, processors=[meta, *renderers(chosen)]
    )
    handler.setFormatter(formatter)
    return handler, out


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("tests.logs")
    yield found
    found.handlers.clear()


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """All that is logged, as JSON."""
    handler, out = written_as("json")
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)
    log_context.done()


def test_an_event_is_one_line_of_json_whatever_stands_in_it(logger: logging.Logger) -> None:
    handler, out = written_as("json")
    logger.addHandler(handler)
    fail_with_it(logger)
    [line] = out.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["logger"]) == (f"It said: {FORGED}", "error", "tests.logs")
    assert "ValueError: invalid literal" in event["exception"]
    assert event["timestamp"].endswith("Z")


def test_in_a_terminal_nothing_from_outside_begins_a_line_or_changes_its_colour(logger: logging.Logger) -> None:
    handler, out = written_as("console")
    logger.addHandler(handler)
    fail_with_it(logger)
    first, *rest = out.getvalue().split("\n")
    assert "It said: no such order\\n2026-01-01 ERROR" in first
    assert "\x1b[31mred" not in out.getvalue()
    assert all(line.startswith("    ") for line in rest if line)
    assert any("ValueError" in line for line in rest)


def test_colours_are_for_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(renderers("auto")[-1], structlog.dev.ConsoleRenderer)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(renderers("auto")[-1], structlog.processors.JSONRenderer)


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="'xml'"):
        renderers("xml")


def test_a_request_has_one_line_and_an_id(client: Client, lines: Any) -> None:
    answer = client.get("/login/?next=/orders/")
    [line] = [line for line in lines() if line["event"] == "Answered"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/login/", 200)
    assert line["milliseconds"] >= 0
    assert line["request_id"] == answer["X-Request-ID"]


@pytest.mark.parametrize("given", ["short", "x" * 101, "with space", "line\nbreak", "nul\x00nul", "ünïcödé-long"])
def test_an_id_that_a_stranger_made_up_is_not_taken(client: Client, given: str) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": given})["X-Request-ID"] != given


def test_an_id_of_a_proxy_is_kept(client: Client) -> None:
    given = "1-65f0c2aa-0123456789abcdef"
    assert client.get("/health/live", headers={"X-Request-ID": given})["X-Request-ID"] == given


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("ending", "host", "status"),
    [("/", "localhost", 200), ("", "localhost", 301), ("/.", "localhost", 404), ("/", "evil.example", 400)],
    ids=["followed", "without its slash", "with a dot behind it", "for another host"],
)
def test_a_link_that_signs_somebody_in_is_not_written_down(
    client: Client, lines: Any, ending: str, host: str, status: int
) -> None:
    link = reverse("password_reset_confirm", args=["MQ", "c5x2b1-0123456789abcdef"]).rstrip("/")
    assert client.get(f"{link}{ending}", headers={"host": host}).status_code == status
    assert_only_its_beginning_is_written(lines())


@pytest.mark.django_db
def test_a_link_that_signs_somebody_in_is_not_written_down_on_its_way_to_https(
    client: Client, lines: Any, settings: Settings
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert client.get(reverse("password_reset_confirm", args=["MQ", "c5x2b1-0123456789abcdef"])).status_code == 301
    assert_only_its_beginning_is_written(lines())


def assert_only_its_beginning_is_written(lines: list[dict[str, Any]]) -> None:
    assert "c5x2b1" not in json.dumps(lines)
    assert [line["path"] for line in lines if line["event"] == "Answered"] == ["/accounts/password-reset/***"]


@pytest.mark.django_db
def test_probes_are_not_written_down(client: Client, lines: Any) -> None:
    for path in ("/health/live", "/health/workers", "/metrics"):
        client.get(path)
    assert [line["event"] for line in lines() if line["logger"] == "config.request_log"] == []


@pytest.mark.parametrize("name", ["django", "django.request", "django.server", "uvicorn"])
def test_nobody_writes_lines_of_its_own_beside_ours(name: str) -> None:
    assert logging.getLogger(name).handlers == []
    assert logging.getLogger(name).propagate


def test_a_red_answer_is_no_error_of_the_process(client: Client) -> None:
    record = logging.LogRecord("django.request", logging.ERROR, __file__, 1, "Service Unavailable", None, None)
    assert ExceptProbes().filter(record)
    record.request = RequestFactory().get("/health/workers")
    assert not ExceptProbes().filter(record)
    assert any(isinstance(each, ExceptProbes) for each in logging.getLogger("django.request").filters)


def test_what_a_job_writes_names_the_job_and_the_request_that_asked_for_it(bench: Bench, lines: Any, rf: Any) -> None:
    def view(_: HttpRequest) -> HttpResponse:
        lab_fail.delay()
        return HttpResponse()

    OriginMiddleware(view)(rf.get("/", headers={"X-Request-ID": "request-0001"}))
    job = Job.objects.get()
    bench.run_due()
    [line] = [line for line in lines() if line["logger"] == "celery.app.trace"]
    assert {name: line[name] for name in ("job_id", "task", "queue", "attempt", "request_id")} == {
        "job_id": str(job.pk),
        "task": "tasks.lab_fail",
        "queue": "default",
        "attempt": 1,
        "request_id": "request-0001",
    }


def test_a_line_after_a_job_is_not_about_it(bench: Bench, lines: Any) -> None:
    lab_add.delay(x=1, y=1)
    bench.run_due()
    logging.getLogger("tests.logs").warning("The worker has nothing to do")
    assert "job_id" not in lines()[-1]


def test_what_the_main_process_says_of_a_message_names_the_job(lines: Any) -> None:
    data = {"id": "0198", "name": "tasks.lab_add", "args": "()", "kwargs": "{}", "eta": None}
    logging.getLogger("celery.worker.strategy").info(LOG_RECEIVED, data, extra={"data": data})
    [line] = lines()
    assert (line["job_id"], line["task"]) == ("0198", "tasks.lab_add")


# Celery leaves notes there for processes that it forks, and those that later tests start would find them too.
@patch.dict(os.environ)
def test_celery_leaves_our_handlers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_app.log, "redirect_stdouts", lambda _: None)
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    try:
        current_app.log.setup_logging_subsystem(loglevel=logging.INFO)
        assert root.handlers == before[0]
        assert logging.getLogger("celery.task").propagate
    finally:
        root.setLevel(before[1])
        current_app.log.already_setup = False
