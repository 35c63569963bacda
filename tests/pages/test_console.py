"""The console as an operator uses it, in a real browser: by its links, buttons and forms."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.jobs.groups import ensure_groups
from apps.jobs.models import DeadLetter, Job, QueuePause, Worker
from tests.jobs.bench import Bench

PHONE = {"width": 390, "height": 844}
LETTERS = "/admin/jobs/deadletter/"
SCRIPT = "<script>document.title = 'hacked'</script>"


def in_group(name: str) -> User:
    """The groups come with the migrations; a test before this one may have emptied the tables."""
    ensure_groups()
    user = User.objects.create_user(name.rstrip("s"), is_staff=True)
    user.groups.add(Group.objects.get(name=name))
    return user


@pytest.fixture
def operator(db: None) -> User:
    return in_group("operators")


@pytest.fixture
def viewer(db: None) -> User:
    return in_group("viewers")


def a_letter(**fields: Any) -> DeadLetter:
    values = {
        "task": "tasks.lab_add",
        "kwargs": {"x": 1},
        "queue": "default",
        "kind": "wrong_arguments",
        "exception": "WrongArguments",
        "message": "missing a required argument: 'y'",
        "fingerprint": "a" * 32,
    }
    return DeadLetter.objects.create(job_id=uuid4(), **{**values, **fields})


def test_a_dead_letter_is_corrected_and_replayed_and_its_job_is_seen_to_succeed(
    open_page: Callable[..., Page], operator: User
) -> None:
    a_letter()
    page = open_page(operator)
    page.goto(LETTERS)
    page.get_by_role("link", name="tasks.lab_add").click()
    page.get_by_role("link", name="Replay…").click()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".errorlist")).to_contain_text("The arguments do not fit tasks.lab_add")
    page.get_by_label("Arguments").fill('{"x": 1, "y": 41}')
    page.get_by_role("button", name="Replay").click()
    page.locator(".messagelist").get_by_role("link").click()
    expect(page.locator("[data-job-state]")).to_have_text("queued")
    Bench().run_all()
    expect(page.locator(".job-now")).to_contain_text("succeeded")
    expect(page.locator(".timeline")).to_contain_text("Succeeded")


def test_a_cause_is_discarded_with_a_reason(open_page: Callable[..., Page], operator: User) -> None:
    for _ in range(3):
        a_letter()
    page = open_page(operator)
    page.goto(LETTERS)
    page.get_by_role("link", name="By cause").click()
    page.get_by_role("button", name="Discard…").click()
    expect(page.get_by_role("heading", name="Discard 3 dead letters?")).to_be_visible()
    page.get_by_label("Reason").fill("The campaign was called off.")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator(".messagelist")).to_contain_text("Discarded 3.")
    assert set(DeadLetter.objects.values_list("state", "reason", "resolved_by__username")) == {
        ("discarded", "The campaign was called off.", "operator")
    }


def test_all_letters_of_all_pages_are_replayed_over_some_time(open_page: Callable[..., Page], operator: User) -> None:
    for _ in range(60):
        a_letter(kwargs={"x": 1, "y": 2})
    page = open_page(operator)
    page.goto(LETTERS)
    page.locator("#action-toggle").check()
    page.get_by_role("button", name="Select all 60 dead letters").click()
    page.get_by_label("Action:").select_option("replay")
    page.get_by_role("button", name="Go").click()
    page.get_by_label("Spread over minutes").fill("60")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".messagelist")).to_contain_text("Replayed 60.")
    assert Job.objects.count() == 60
    assert Job.objects.filter(run_at__gt=timezone.now() + timedelta(minutes=30)).count() == 29


def test_a_queue_is_paused_with_a_reason_and_resumed(open_page: Callable[..., Page], operator: User) -> None:
    page = open_page(operator)
    page.goto("/admin/jobs/")
    page.locator("#content").get_by_role("link", name="Queues").click()
    low = page.get_by_role("row", name="low")
    low.get_by_role("link", name="Pause…").click()
    expect(page.get_by_label("Queue")).to_have_value("low")
    page.get_by_label("Reason").fill("The supplier moves house.")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(low).to_contain_text("The supplier moves house.")
    assert QueuePause.objects.get().queue == "low"
    low.get_by_role("button", name="Resume").click()
    expect(low).to_contain_text("open")
    assert not QueuePause.objects.exists()


def test_a_running_job_is_watched_and_asked_to_stop(open_page: Callable[..., Page], operator: User) -> None:
    job = Job.objects.create(
        task="tasks.lab_sleep", queue="default", state="running", attempts=1, started_at=timezone.now()
    )
    page = open_page(operator)
    page.goto(f"/admin/jobs/job/{job.pk}/change/")
    progress = {"done": 10, "total": 20, "percent": 50.0, "eta": 4.2, "note": ""}
    Job.objects.filter(pk=job.pk).update(progress=progress)
    expect(page.locator("[data-job-count]")).to_contain_text("10 of 20")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".messagelist")).to_contain_text("Cancelled 1.")
    job.refresh_from_db()
    assert job.cancel_requested


def test_a_viewer_may_look_and_is_refused_everything_else(open_page: Callable[..., Page], viewer: User) -> None:
    letter = a_letter()
    page = open_page(viewer)
    page.goto(f"{LETTERS}{letter.pk}/change/")
    expect(page.get_by_text("WrongArguments")).to_be_visible()
    expect(page.get_by_role("link", name="Replay…")).to_have_count(0)
    expect(page.get_by_role("button", name="Discard…")).to_have_count(0)
    refused = page.goto(f"{LETTERS}{letter.pk}/replay/")
    assert refused is not None
    assert refused.status == 403


def every_page(page: Page) -> Iterator[str]:
    """With long names in them, and with what a stranger may send."""
    name = "tasks.a_task_with_a_rather_long_name_that_has_to_wrap_or_to_scroll"
    error = {"at": timezone.now().isoformat(), "exception": SCRIPT, "message": "x" * 300, "traceback": "y" * 500}
    job = Job.objects.create(task=name, queue="default", args=[SCRIPT, "z" * 300], errors=[error])
    letter = a_letter(task=name, message=SCRIPT + "x" * 300, traceback="y" * 500)
    QueuePause.objects.create(queue="low", reason="w" * 200)
    Worker.objects.create(name="worker@a-host-with-a-long-name.example", pid=1, pool="prefork", queues=["high", "low"])
    for address in (
        "/admin/jobs/",
        "/admin/jobs/job/",
        f"/admin/jobs/job/{job.pk}/change/",
        LETTERS,
        f"{LETTERS}causes/",
        f"{LETTERS}{letter.pk}/change/",
        f"{LETTERS}{letter.pk}/replay/",
        "/admin/jobs/queuepause/",
        "/admin/jobs/queuepause/add/",
        "/admin/jobs/worker/",
        "/admin/django_celery_beat/periodictask/",
    ):
        page.goto(address)
        yield address


def test_nothing_is_hidden_when_the_side_bar_is_closed(open_page: Callable[..., Page], operator: User) -> None:
    page = open_page(operator)
    page.goto("/admin/jobs/queuepause/")
    page.get_by_label("Toggle navigation").click()
    heading = page.get_by_role("heading", name="Queues").bounding_box()
    assert heading is not None
    assert heading["x"] >= 0


def test_on_a_phone_at_night_no_page_is_wider_than_the_screen_and_all_are_dark(
    open_page: Callable[..., Page], operator: User
) -> None:
    page = open_page(operator, viewport=PHONE, color_scheme="dark")
    for address in every_page(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], address
        lightness = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
        assert sum(page.evaluate(lightness)) < 120, address
        assert page.title() != "hacked", address
