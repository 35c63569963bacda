"""The operator's tables, as a browser asks for them."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from apps.jobs import paging, sensitive
from apps.jobs.models import DeadLetter, Job, QueuePause, Worker
from apps.jobs.paging import JobPaginator

pytestmark = pytest.mark.django_db

JOBS = "admin:jobs_job_changelist"
LETTERS = "admin:jobs_deadletter_changelist"
SCRIPT = "<script>alert(1)</script>"
ALL_TABLES = [JOBS, LETTERS, "admin:jobs_queuepause_changelist", "admin:jobs_worker_changelist"]


@pytest.fixture
def admin() -> Client:
    return signed_in(User.objects.create_superuser("admin"))


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def operator(*permissions: str) -> Client:
    """Staff, with these permissions and no other."""
    user = User.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return signed_in(user)


def job(**fields: Any) -> Job:
    return Job.objects.create(**{"task": "tasks.lab_nothing", "queue": "default", **fields})


def letter(**fields: Any) -> DeadLetter:
    fields = {"task": "tasks.lab_add", "kwargs": {"x": 1, "y": 2}, "queue": "default", "kind": "permanent", **fields}
    return DeadLetter.objects.create(job_id=uuid4(), **fields)


def listed(page: HttpResponse) -> list[str]:
    """The ids in the list's check boxes, or its links."""
    text = page.content.decode()
    return re.findall(r'name="_selected_action" value="([0-9a-f-]+)"', text) or re.findall(
        r"/jobs/\w+/([0-9a-f-]{36})/change/", text
    )


def act(client: Client, table: str, action: str, *rows: Any, **fields: Any) -> HttpResponse:
    """Asks for the action; with `confirmed`, answers the page that asks back, as of now."""
    data = {"action": action, "_selected_action": [str(row.pk) for row in rows], **fields}
    if "confirmed" in fields:
        data.setdefault("asked_at", timezone.now().isoformat())
    return client.post(reverse(table), data, follow=True)  # type: ignore[return-value]


@pytest.mark.parametrize("table", ALL_TABLES)
def test_every_table_opens_with_rows_in_it(admin: Client, table: str) -> None:
    job(errors=[{"at": "2026", "exception": "E", "message": "m", "traceback": "t"}])
    letter()
    QueuePause.objects.create(queue="low", reason="Maintenance.")
    worker()

    assert admin.get(reverse(table)).status_code == 200


def worker() -> Worker:
    return Worker.objects.create(name="worker@host", pid=1, pool="prefork", queues=["high", "low"])


@pytest.mark.parametrize(("model", "make"), [("job", job), ("deadletter", letter), ("worker", worker)])
def test_records_can_be_read_and_not_written(admin: Client, model: str, make: Callable[[], Any]) -> None:
    row = make()
    page = reverse(f"admin:jobs_{model}_change", args=[row.pk])

    assert admin.get(page).status_code == 200
    assert admin.post(page, {"task": "other"}).status_code == 403
    assert admin.get(reverse(f"admin:jobs_{model}_add")).status_code == 403
    assert admin.get(reverse(f"admin:jobs_{model}_delete", args=[row.pk])).status_code == 403


@pytest.mark.parametrize(
    ("term", "field"),
    [
        ("lab_noth", {}),
        ("order-4711", {"kwargs": {"order": "order-4711"}}),
        ("Declined", {"errors": [{"message": "the card was declined"}]}),
    ],
)
def test_a_job_is_found_by_task_argument_or_error(admin: Client, term: str, field: dict[str, Any]) -> None:
    found = job(**field)
    job(task="tasks.other")

    assert listed(admin.get(reverse(JOBS), {"q": term})) == [str(found.pk)]  # type: ignore[arg-type]


def test_an_id_finds_the_job_and_its_family(admin: Client) -> None:
    parent = job()
    child = job(parent_id=parent.pk)
    job()

    assert set(listed(admin.get(reverse(JOBS), {"q": str(parent.pk)}))) == {str(parent.pk), str(child.pk)}  # type: ignore[arg-type]


@pytest.mark.parametrize("term", ["'; DROP TABLE jobs_job; --", "%", "\\", '"', "{", "😀"])
def test_any_text_can_be_searched_for(admin: Client, term: str) -> None:
    job()

    for table in (JOBS, LETTERS):
        assert admin.get(reverse(table), {"q": term}).status_code == 200


def test_text_is_looked_for_in_the_newest_rows_alone(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.jobs.admin.jobs.SEARCHED", 1)
    monkeypatch.setattr("apps.jobs.admin.letters.SEARCHED", 1)
    hour_ago = timezone.now() - timedelta(hours=1)
    for make, table in ((job, JOBS), (letter, LETTERS)):
        old, new = make(created_at=hour_ago, kwargs={"name": "Ünver"}), make(kwargs={"name": "100 %"})

        assert listed(admin.get(reverse(table), {"q": "0 %"})) == [str(new.pk)]  # type: ignore[arg-type]
        assert listed(admin.get(reverse(table), {"q": "ünver"})) == []  # type: ignore[arg-type]
        before = {"until": f"{timezone.now() - timedelta(minutes=1):%Y-%m-%dT%H:%M}", "q": "ünver"}
        assert listed(admin.get(reverse(table), before)) == [str(old.pk)]  # type: ignore[arg-type]


def test_tables_can_be_filtered(admin: Client) -> None:
    low = job(queue="low", task="tasks.lab_add")
    job()

    for query in ({"queue": "low"}, {"task": "tasks.lab_add"}, {"queue": "low", "state__exact": "queued"}):
        assert listed(admin.get(reverse(JOBS), query)) == [str(low.pk)]  # type: ignore[arg-type]


def test_whatever_a_job_contains_is_escaped(admin: Client) -> None:
    row = job(args=[SCRIPT], errors=[{"at": "", "exception": SCRIPT, "message": SCRIPT, "traceback": SCRIPT}])
    dead = letter(args=[SCRIPT], message=SCRIPT, traceback=SCRIPT, exception=SCRIPT)
    pages = [
        reverse(JOBS),
        reverse(LETTERS),
        reverse("admin:jobs_job_change", args=[row.pk]),
        reverse("admin:jobs_deadletter_change", args=[dead.pk]),
    ]

    for page in pages:
        content = admin.get(page).content.decode()
        assert SCRIPT not in content
        assert "&lt;script&gt;" in content
    assert SCRIPT not in act(admin, LETTERS, "discard", dead).content.decode()


def test_secrets_are_masked(admin: Client) -> None:
    kwargs = sensitive.seal({"token": "hunter2"}, ["token"])
    pages = [
        reverse("admin:jobs_job_change", args=[job(kwargs=kwargs).pk]),
        reverse("admin:jobs_deadletter_change", args=[letter(kwargs=kwargs).pk]),
    ]

    for page in pages:
        content = admin.get(page).content.decode()
        assert "***" in content
        assert "__sealed__" not in content


# --- Jobs -------------------------------------------------------------------------------------------------------------


def test_waiting_jobs_are_cancelled_and_running_ones_are_asked_to_stop(admin: Client) -> None:
    waiting, running = job(), job(state="running")

    act(admin, JOBS, "cancel", waiting, running, confirmed="yes")

    waiting.refresh_from_db()
    running.refresh_from_db()
    assert (waiting.state, running.state, running.cancel_requested) == ("cancelled", "running", True)
    assert LogEntry.objects.filter(object_id__in=[str(waiting.pk), str(running.pk)]).count() == 2


def test_a_job_of_tomorrow_is_run_now(admin: Client) -> None:
    tomorrow = job(run_at=timezone.now() + timedelta(days=1))

    act(admin, JOBS, "run_now", tomorrow, confirmed="yes")

    tomorrow.refresh_from_db()
    assert tomorrow.run_at <= timezone.now()


def test_who_may_only_look_cannot_cancel() -> None:
    waiting = job()

    act(operator("view_job"), JOBS, "cancel", waiting)

    waiting.refresh_from_db()
    assert waiting.state == "queued"


# --- Dead letters -----------------------------------------------------------------------------------------------------


def test_a_replay_is_confirmed_first_and_says_how_many(admin: Client) -> None:
    letters = [letter(), letter()]

    asked = act(admin, LETTERS, "replay", *letters)

    assert "Replay 2 dead letters?" in asked.content.decode()
    assert not Job.objects.exists()

    done = act(admin, LETTERS, "replay", *letters, confirmed="yes", minutes="0")

    assert "Replayed 2." in done.content.decode()
    assert Job.objects.count() == 2
    assert set(DeadLetter.objects.values_list("state", "resolved_by__username")) == {("replayed", "admin")}
    assert LogEntry.objects.count() == 2


def test_all_letters_of_all_pages_can_be_chosen(admin: Client) -> None:
    first, *_ = [letter() for _ in range(3)]
    letter(task="tasks.lab_total")
    url = f"{reverse(LETTERS)}?task=tasks.lab_add"
    choice = {"action": "replay", "_selected_action": [str(first.pk)], "select_across": "1"}

    assert "Replay 3 dead letters?" in admin.post(url, choice).content.decode()
    admin.post(url, {**choice, "confirmed": "yes", "minutes": "60", "asked_at": timezone.now().isoformat()})

    assert Job.objects.filter(task="tasks.lab_add").count() == 3
    assert Job.objects.filter(run_at__gt=timezone.now() + timedelta(minutes=30)).count() == 1


def test_a_replay_that_is_impossible_is_said_so(admin: Client) -> None:
    unknown = letter(task="tasks.of_yesterday")

    done = act(admin, LETTERS, "replay", unknown, confirmed="yes", minutes="0")

    assert "1 cannot be replayed" in done.content.decode()
    unknown.refresh_from_db()
    assert unknown.state == "open"


def test_a_discard_asks_why_until_it_is_told(admin: Client) -> None:
    dead = letter()

    asked = act(admin, LETTERS, "discard", dead, confirmed="yes", reason=" ")
    dead.refresh_from_db()
    assert dead.state == "open"
    assert "This field is required" in asked.content.decode()

    act(admin, LETTERS, "discard", dead, confirmed="yes", reason="The shop is closed.")
    dead.refresh_from_db()
    assert (dead.state, dead.reason) == ("discarded", "The shop is closed.")
    assert "The shop is closed." in LogEntry.objects.get().change_message


def test_a_letter_that_somebody_else_has_resolved_is_left_alone(admin: Client) -> None:
    dead = letter(state="discarded")

    done = act(admin, LETTERS, "replay", dead, confirmed="yes", minutes="0")

    assert "None of these is open" in done.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize(("permission", "denied"), [("replay_deadletter", "discard"), ("discard_deadletter", "replay")])
def test_each_action_needs_its_own_permission(permission: str, denied: str) -> None:
    dead = letter()
    client = operator("view_deadletter", permission)

    act(client, LETTERS, denied, dead, confirmed="yes", minutes="0", reason="because")

    dead.refresh_from_db()
    assert dead.state == "open"


# --- Queues and schedules ---------------------------------------------------------------------------------------------


def test_a_queue_is_paused_by_adding_a_pause_and_resumed_by_deleting_it(admin: Client) -> None:
    admin.post(reverse("admin:jobs_queuepause_add"), {"queue": "low", "reason": "Maintenance."})

    pause = QueuePause.objects.get()
    assert (pause.queue, pause.paused_by and pause.paused_by.username) == ("low", "admin")

    admin.post(reverse("admin:jobs_queuepause_delete", args=["low"]), {"post": "yes"})
    assert not QueuePause.objects.exists()


def test_a_queue_that_does_not_exist_cannot_be_paused(admin: Client) -> None:
    admin.post(reverse("admin:jobs_queuepause_add"), {"queue": "nowhere", "reason": "?"})

    assert not QueuePause.objects.exists()


def test_a_schedule_shows_its_policy(admin: Client) -> None:
    schedule = PeriodicTask.objects.get(name="sync-external-data")

    page = admin.get(reverse("admin:django_celery_beat_periodictask_change", args=[schedule.pk]))

    assert "run once for all missed ticks" in page.content.decode()


# --- Long tables ------------------------------------------------------------------------------------------------------


def test_a_long_table_is_counted_and_paged_through_as_far_as_its_newest_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "COUNTED", 4)
    for number in range(6):
        job(queue="low" if number else "high", created_at=timezone.now() - timedelta(hours=number))
    rows = Job.objects.order_by("-created_at", "-pk")

    with CaptureQueriesContext(connection) as queries:
        pages = JobPaginator(rows, 3)
        assert (pages.count, pages.is_cut, pages.num_pages) == (4, True, 2)
        assert JobPaginator(rows.filter(queue="high"), 3).count == 1
        assert list(pages.page(1)) == list(rows[:3])
        assert list(pages.page(2)) == list(rows[3:6])

    assert all("LIMIT" in query["sql"] for query in queries)


def test_a_limit_of_counting_is_not_called_a_number_of_results(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "COUNTED", 4)
    for _ in range(6):
        letter()
    content = admin.get(reverse(LETTERS)).content.decode()
    assert "The newest 4 dead letters: filter for older ones" in content
    assert "4 results" not in content


@pytest.mark.parametrize("live", Job.LIVE)
def test_live_and_ended_jobs_are_one_list_by_time(admin: Client, live: str) -> None:
    now = timezone.now()
    old = job(created_at=now - timedelta(hours=3))
    ended = job(state="succeeded", finished_at=now, created_at=now - timedelta(hours=2))
    new = job(state=live, created_at=now - timedelta(hours=1))

    assert listed(admin.get(reverse(JOBS))) == [str(row.pk) for row in (new, ended, old)]  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [*Job.LIVE, "nonsense"])
def test_a_list_of_live_jobs_reads_none_of_those_that_ended(admin: Client, state: str) -> None:
    job(state="succeeded", finished_at=timezone.now())
    live = [str(job(state=state).pk)] if state in Job.LIVE else []

    with CaptureQueriesContext(connection) as queries:
        assert listed(admin.get(reverse(JOBS), {"state__exact": state})) == live  # type: ignore[arg-type]

    assert not any("'succeeded'" in query["sql"] for query in queries)
