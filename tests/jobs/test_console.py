"""What operators do to jobs and dead letters in the admin: asked first, permitted apart, logged, and done once."""

import csv
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.db.models.functions import Now
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from apps.jobs import ledger, sensitive
from apps.jobs.admin import acts
from apps.jobs.failures import Failure
from apps.jobs.groups import ACTS, ensure_groups
from apps.jobs.models import DeadLetter, Job, QueuePause, SchedulePolicy, Worker
from apps.jobs.ticks import next_tick
from apps.jobs.timeline import timeline
from tasks.lab import lab_secret
from tests.jobs.test_admin import JOBS, LETTERS, act, job, letter, listed, operator, signed_in

pytestmark = pytest.mark.django_db

QUEUES = "admin:jobs_queuepause_changelist"
SCHEDULES = "admin:django_celery_beat_periodictask_changelist"
CAUSES = "admin:jobs_deadletter_causes"


@pytest.fixture
def admin() -> Client:
    return signed_in(User.objects.create_superuser("admin"))


def in_group(name: str) -> Client:
    user = User.objects.create_user(name.rstrip("s"), is_staff=True)
    user.groups.add(Group.objects.get(name=name))
    return signed_in(user)


def page_of(row: Job | DeadLetter) -> str:
    return reverse(f"admin:jobs_{row._meta.model_name}_change", args=[row.pk])


def button(row: Job | DeadLetter, name: str) -> str:
    return reverse(f"admin:jobs_{row._meta.model_name}_act", args=[row.pk, name])


def replay_page(row: Any) -> str:
    return reverse("admin:jobs_deadletter_replay", args=[getattr(row, "pk", row)])


def confirmed(**fields: Any) -> dict[str, Any]:
    return {"confirmed": "yes", "asked_at": timezone.now().isoformat(), **fields}


def replay(client: Client, row: DeadLetter, arguments: Any) -> str:
    return client.post(replay_page(row), {"arguments": json.dumps(arguments)}, follow=True).content.decode()


def schedule(task: str = "tasks.lab_nothing") -> PeriodicTask:
    model = PeriodicTask.objects.filter(interval__isnull=False).latest("pk")
    PeriodicTask.objects.filter(pk=model.pk).update(task=task, args="[]", kwargs="{}", queue=None)
    return model


# --- Who may ----------------------------------------------------------------------------------------------------------


def test_migrate_makes_two_groups_and_leaves_them_alone_afterwards() -> None:
    operators, viewers = Group.objects.get(name="operators"), Group.objects.get(name="viewers")
    may = set(operators.permissions.values_list("codename", flat=True))
    may_look = set(viewers.permissions.values_list("codename", flat=True))
    assert may - may_look == set(ACTS)
    assert {"view_job", "view_deadletter", "view_worker", "view_queuepause", "view_periodictask"} <= may_look

    operators.permissions.clear()
    ensure_groups()

    assert not operators.permissions.exists()


def test_a_viewer_sees_everything_and_no_way_to_act() -> None:
    viewer, live, dead = in_group("viewers"), job(), letter()
    pages = [reverse(name) for name in (JOBS, LETTERS, QUEUES, SCHEDULES, CAUSES)] + [page_of(live), page_of(dead)]
    for page in pages:
        content = viewer.get(page).content.decode()
        for verb in ("Cancel…", "Run now", "Retry now", "Replay…", "Discard…", "Pause…", ">Enable<"):
            assert verb not in content, page


@pytest.mark.parametrize("name", ["cancel", "run_now", "retry_now"])
def test_a_viewer_who_asks_for_an_act_on_jobs_is_refused(name: str) -> None:
    viewer, live = in_group("viewers"), job(run_at=timezone.now() + timedelta(days=1))
    assert act(viewer, JOBS, name, live, confirmed="yes").status_code == 403
    assert viewer.post(button(live, name), confirmed()).status_code == 403
    before = live.run_at
    live.refresh_from_db()
    assert (live.state, live.run_at) == ("queued", before)


def test_a_viewer_who_asks_for_an_act_on_letters_queues_or_schedules_is_refused() -> None:
    viewer, dead, model = in_group("viewers"), letter(), schedule()
    QueuePause.objects.create(queue="low")
    assert act(viewer, LETTERS, "replay", dead, confirmed="yes", minutes="0").status_code == 403
    assert act(viewer, LETTERS, "discard", dead, confirmed="yes", reason="x").status_code == 403
    assert viewer.post(replay_page(dead), {"arguments": "{}"}).status_code == 403
    assert viewer.get(replay_page(dead)).status_code == 403
    assert viewer.post(reverse("admin:jobs_queuepause_resume", args=["low"])).status_code == 403
    assert viewer.get(reverse("admin:jobs_queuepause_add")).status_code == 403
    for name in ("run_now", "enable_tasks", "disable_tasks"):
        assert act(viewer, SCHEDULES, name, model).status_code == 403
    dead.refresh_from_db()
    assert (dead.state, Job.objects.count(), QueuePause.objects.count()) == ("open", 0, 1)


def test_an_operator_may_do_all_of_it() -> None:
    client, live, dead = in_group("operators"), job(), letter()
    act(client, JOBS, "cancel", live, confirmed="yes")
    act(client, LETTERS, "discard", dead, confirmed="yes", reason="Over.")
    client.post(reverse("admin:jobs_queuepause_add"), {"queue": "low", "reason": "Maintenance."})
    live.refresh_from_db()
    dead.refresh_from_db()
    assert (live.state, dead.state, QueuePause.objects.get().queue) == ("cancelled", "discarded", "low")


def test_staff_without_a_permission_see_nothing() -> None:
    client = operator("view_user")
    for page in [reverse(name) for name in (JOBS, LETTERS, QUEUES, CAUSES)] + [page_of(job()), page_of(letter())]:
        assert client.get(page).status_code == 403


def test_who_may_look_at_jobs_alone_is_led_to_jobs_alone() -> None:
    client, dead = operator("view_job"), job(state="dead", finished_at=timezone.now())
    letter_of_it = DeadLetter.objects.create(job_id=dead.pk, task=dead.task, queue=dead.queue, kind="permanent")
    content = client.get(reverse("job-status", args=[dead.pk])).content.decode()
    assert f'<a href="{reverse(JOBS)}">Jobs</a>' in content
    assert page_of(letter_of_it) not in content
    for page in (content, client.get(reverse("dashboard")).content.decode()):
        assert ">Dead letters</a>" not in page
        assert ">Workers</a>" not in page


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_an_unknown_id_is_not_found(admin: Client) -> None:
    nobody = uuid4()
    for model in ("job", "deadletter", "worker"):
        assert admin.get(reverse(f"admin:jobs_{model}_change", args=[nobody])).status_code == 404
        assert admin.get(reverse(f"admin:jobs_{model}_change", args=["nonsense"])).status_code == 404
    assert admin.post(reverse("admin:jobs_job_act", args=[nobody, "cancel"])).status_code == 404
    assert admin.post(button(job(), "explode")).status_code == 404
    assert admin.get(replay_page(nobody)).status_code == 404
    assert admin.post(reverse("admin:jobs_queuepause_resume", args=["nowhere"])).status_code == 404


def test_a_wrong_method_is_refused(admin: Client) -> None:
    for address in (button(job(), "cancel"), reverse("admin:jobs_queuepause_resume", args=["low"])):
        assert admin.get(address).status_code == 405
    for address in (reverse(JOBS), reverse(LETTERS), replay_page(letter())):
        assert admin.put(address).status_code == 405
    for address in (reverse(QUEUES), reverse(CAUSES)):
        assert admin.post(address).status_code == 405


@pytest.mark.parametrize(
    "query",
    [{"task": "no.such_task"}, {"queue": "'"}, {"since": "yesterday"}, {"until": "2026-13-45T99:00"}, {"q": "%"}],
)
def test_any_filter_can_be_typed_into_the_address(admin: Client, query: dict[str, str]) -> None:
    for table in (JOBS, LETTERS):
        assert admin.get(reverse(table), query, follow=True).status_code == 200


def test_a_text_is_looked_for_in_vain_behind_a_filter_that_no_row_can_pass(admin: Client) -> None:
    for table in (JOBS, LETTERS):
        assert admin.get(reverse(table), {"attempts": "9" * 20, "q": "foo"}).status_code == 200


def test_a_filter_by_date_finds_what_was_created_between(admin: Client) -> None:
    now = timezone.now()
    old, new = job(created_at=now - timedelta(days=2)), job(created_at=now - timedelta(minutes=30))
    yesterday = f"{now - timedelta(days=1):%Y-%m-%dT%H:%M}"
    for query, found in (({"within": "1h"}, new), ({"until": yesterday}, old), ({"since": yesterday}, new)):
        assert listed(admin.get(reverse(JOBS), query)) == [str(found.pk)]  # type: ignore[arg-type]


def test_a_time_of_day_says_of_which_zone_it_is(admin: Client) -> None:
    QueuePause.objects.create(queue="low", until=timezone.now() + timedelta(hours=1))
    over = job(state="succeeded", finished_at=timezone.now())
    for page in (page_of(over), reverse("job-status", args=[over.pk]), reverse(QUEUES)):
        times = re.findall(r"\d\d:\d\d(?!:)[^<]{0,4}", re.sub(r'"[^"]*"', "", admin.get(page).content.decode()))
        assert times
        assert all(time.endswith(" UTC") for time in times), (page, times)
    assert "Since (UTC)" in admin.get(reverse(JOBS)).content.decode()


# --- Jobs -------------------------------------------------------------------------------------------------------------


def test_every_act_asks_first_and_says_how_many(admin: Client) -> None:
    jobs = [job(), job()]
    asked = act(admin, JOBS, "cancel", *jobs).content.decode()
    assert "Cancel 2 jobs?" in asked
    assert "Cancel 1 job?" in admin.post(button(jobs[0], "cancel")).content.decode()
    assert not Job.objects.filter(state="cancelled").exists()


def test_what_came_in_after_the_question_was_not_asked_about(admin: Client) -> None:
    asked_at = timezone.now().isoformat()
    late = job(created_at=timezone.now() + timedelta(seconds=5))
    act(admin, JOBS, "cancel", late, confirmed="yes", asked_at=asked_at, select_across="1")
    late.refresh_from_db()
    assert late.state == "queued"


def test_a_question_is_dated_by_the_database_and_not_by_a_web_server_whose_clock_is_slow(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = job()
    with monkeypatch.context() as slow:
        slow.setattr(timezone, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
        asked = admin.post(button(live, "cancel"))
    answer = {"confirmed": "yes", "asked_at": asked.context["form"].initial["asked_at"]}
    assert "Cancelled 1." in admin.post(button(live, "cancel"), answer, follow=True).content.decode()


def test_a_letter_is_dated_by_the_database_and_not_by_a_worker_whose_clock_is_fast(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as fast:
        clock = Mock(now=lambda tz: datetime.now(tz) + timedelta(minutes=1))
        fast.setattr(timezone, "datetime", clock)  # what a model's default asks, whoever holds `timezone.now`
        ledger.bury(job().pk, None, Failure.worker_lost())
    dead = DeadLetter.objects.get()
    assert "Discard 1 dead letter?" in admin.post(button(dead, "discard")).content.decode()


def test_a_button_on_the_jobs_page_cancels_it_and_comes_back(admin: Client) -> None:
    live = job()
    assert f'action="{button(live, "cancel")}"' in admin.get(page_of(live)).content.decode()
    done = admin.post(button(live, "cancel"), confirmed())
    live.refresh_from_db()
    assert (done["Location"], live.state) == (page_of(live), "cancelled")
    assert LogEntry.objects.get().object_id == str(live.pk)
    assert button(live, "cancel") not in admin.get(page_of(live)).content.decode()


def test_a_job_that_failed_waits_for_a_retry_and_one_that_did_not_for_its_time(admin: Client) -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    failed = job(run_at=tomorrow, retries=1, errors=[{"at": "", "exception": "E", "message": "m"}])
    planned = job(run_at=tomorrow)
    act(admin, JOBS, "retry_now", failed, planned, confirmed="yes")
    failed.refresh_from_db()
    planned.refresh_from_db()
    assert (failed.run_at < tomorrow, planned.run_at) == (True, tomorrow)


@pytest.mark.parametrize(("name", "errors"), [("run_now", []), ("retry_now", [{"message": "m"}])])
def test_a_job_that_is_due_keeps_its_place_in_the_queue(admin: Client, name: str, errors: list[Any]) -> None:
    due, waiting = timezone.now() - timedelta(minutes=5), timezone.now() + timedelta(days=1)
    first, later = job(run_at=due, errors=errors), job(run_at=waiting, errors=errors)
    assert button(first, name) not in admin.get(page_of(first)).content.decode()
    assert "Made due now 1." in act(admin, JOBS, name, first, later, confirmed="yes").content.decode()
    first.refresh_from_db()
    later.refresh_from_db()
    assert (first.run_at, later.run_at < waiting) == (due, True)


def test_the_history_of_a_job_and_of_a_letter_says_who_did_what(admin: Client) -> None:
    live, dead = job(), letter()
    act(admin, JOBS, "cancel", live, confirmed="yes")
    act(admin, LETTERS, "discard", dead, confirmed="yes", reason="The campaign was called off.")
    for row, done in ((live, "Cancelled."), (dead, "Discarded: The campaign was called off.")):
        page = admin.get(reverse(f"admin:jobs_{row._meta.model_name}_history", args=[row.pk]))
        assert page.status_code == 200
        assert done in page.content.decode()


def test_a_job_that_has_ended_is_left_alone_and_this_is_said(admin: Client) -> None:
    over = job(state="succeeded", finished_at=timezone.now())
    said = act(admin, JOBS, "cancel", over, confirmed="yes").content.decode()
    assert "there is nothing to cancel" in said
    assert not LogEntry.objects.exists()


def test_a_jobs_page_leads_to_its_parent_its_children_and_its_replays(admin: Client) -> None:
    parent = job()
    child, again = job(parent_id=parent.pk), job(replay_of=parent.pk)
    assert page_of(parent) in admin.get(page_of(child)).content.decode()
    content = admin.get(page_of(parent)).content.decode()
    assert page_of(child) in content
    assert page_of(again) in content


def test_a_jobs_page_says_how_many_children_it_leaves_out(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.jobs.admin.jobs.CHILDREN_SHOWN", 1)
    parent = job()
    for _ in range(2):
        job(parent_id=parent.pk)
    assert "<li>… and more</li></ul>" in admin.get(page_of(parent)).content.decode()


def test_a_jobs_page_shows_the_priority_nought_which_is_not_the_same_as_none(admin: Client) -> None:
    shows = "field-shown_priority"
    assert shows in admin.get(page_of(job(priority=0))).content.decode()
    assert shows not in admin.get(page_of(job())).content.decode()


def test_a_jobs_timeline_names_the_worker_of_each_attempt(admin: Client) -> None:
    error = {"at": timezone.now().isoformat(), "exception": "Oops", "message": "No.", "traceback": "File x.py"}
    row = job(errors=[{**error, "attempt": 1, "worker": "io@host"}])
    content = admin.get(page_of(row)).content.decode()
    assert "Attempt 1 failed on io@host" in content
    assert "<details><summary>Traceback</summary>" in content


def at(second: int) -> datetime:
    return datetime(2026, 3, 1, 12, 0, second, tzinfo=UTC)


def test_a_timeline_has_the_hand_over_to_the_broker_before_the_attempt_that_it_led_to() -> None:
    errors = [{"at": at(second).isoformat(), "exception": "Oops", "message": "No."} for second in (2, 6)]
    row = Job(created_at=at(0), errors=errors, state="queued", run_at=at(8), sent_at=at(5))
    assert said(row)[1:4] == ["Attempt 1 failed", "Handed to the broker", "Attempt 2 failed"]
    row = Job(created_at=at(0), errors=errors, state="succeeded", sent_at=at(8), started_at=at(9), attempts=3)
    assert said(row)[-3:] == ["Handed to the broker", "Attempt 3 started", "Succeeded"]
    row = Job(created_at=at(0), errors=errors, state="sent", sent_at=at(8))
    assert said(row)[-1] == "Handed to the broker"
    assert said(Job(created_at=at(0), state="succeeded", started_at=at(9), attempts=1))[1] == "Attempt 1 started"


def said(row: Job) -> list[str]:
    return [moment.what for moment in timeline(row)]


@pytest.mark.parametrize("state", Job.State)
def test_a_jobs_page_opens_in_every_state_also_without_its_worker(admin: Client, state: str) -> None:
    now = timezone.now()
    row = job(
        state=state, attempts=1, worker_id=uuid4(), started_at=now, finished_at=now if state in Job.ENDED else None
    )
    assert admin.get(page_of(row)).status_code == 200


class Impatient:
    """Has an act on all rows of a table that stops after each two of them, and goes on as its page has it."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch, table: str, name: str, chosen: Any) -> None:
        self.client, self.monkeypatch, self.table = client, monkeypatch, table
        self.choice = {"action": name, "_selected_action": str(chosen.pk), "select_across": "1"}
        monkeypatch.setattr(acts, "BATCH", 1)
        monkeypatch.setattr(acts, "PATIENCE", 1.5)

    def press(self, page: Any = None, **fields: Any) -> Any:
        self.monkeypatch.setattr(acts, "monotonic", count().__next__)  # each look at the clock is a second later
        form = page.context["form"] if page else {}
        hidden = {field.name: field.value() for field in form if field.is_hidden and field.value() is not None}
        return self.client.post(reverse(self.table), {**self.choice, **confirmed(**hidden), **fields})


def letters_of(*tasks: str) -> list[DeadLetter]:
    """The first is the newest."""
    now = timezone.now()
    return [letter(task=f"tasks.{task}", created_at=now - timedelta(minutes=age)) for age, task in enumerate(tasks, 1)]


def test_a_long_act_stops_in_time_and_goes_on_behind_what_was_refused(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = letters_of("lab_add", "lab_add", "of_yesterday", "lab_add", "of_yesterday")
    replay_all, asked = Impatient(admin, monkeypatch, LETTERS, "replay", dead[0]), None
    for replayed, left in ((2, 3), (3, 1)):
        asked = replay_all.press(asked, minutes="0")
        assert f"Replay {left} dead letter" in asked.content.decode()
        assert Job.objects.count() == LogEntry.objects.count() == replayed
    assert replay_all.press(asked, minutes="0").status_code == 302


def test_a_long_act_goes_on_behind_rows_that_look_as_before(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    running = [job(state="running") for _ in range(3)]
    cancel_all = Impatient(admin, monkeypatch, JOBS, "cancel", running[0])
    asked = cancel_all.press()
    assert "Cancel 1 job?" in asked.content.decode()
    cancel_all.press(asked)
    assert LogEntry.objects.values("object_id").distinct().count() == LogEntry.objects.count() == 3


def test_a_long_act_leaves_out_no_row_where_one_that_was_tried_is_gone_when_it_goes_on(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, *rest = letters_of("of_yesterday", "lab_add", "lab_add", "lab_add")
    replay_all = Impatient(admin, monkeypatch, LETTERS, "replay", rest[0])
    asked = replay_all.press(minutes="0")
    DeadLetter.objects.filter(pk=refused.pk).update(state="discarded")
    assert replay_all.press(asked, minutes="0").status_code == 302
    assert Job.objects.count() == len(rest)


def test_a_long_act_that_goes_on_and_is_told_nonsense_asks_again_about_what_is_left(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = letters_of("of_yesterday", "of_yesterday", "lab_add")
    replay_all = Impatient(admin, monkeypatch, LETTERS, "replay", dead[0])
    asked = replay_all.press(replay_all.press(minutes="0"), minutes="soon")
    assert "Replay 1 dead letter?" in asked.content.decode()
    done = replay_all.press(asked, minutes="0")
    assert [str(message) for message in get_messages(done.wsgi_request)][-1] == "Replayed 1."


def test_a_replay_that_goes_on_is_spread_on_from_where_it_was(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = letters_of(*["lab_add"] * 4)
    replay_all = Impatient(admin, monkeypatch, LETTERS, "replay", dead[0])
    replay_all.press(replay_all.press(minutes="60"), minutes="60")
    now, due = timezone.now(), Job.objects.order_by("run_at").values_list("run_at", flat=True)
    assert [round((run_at - now) / timedelta(minutes=5)) for run_at in due] == [0, 3, 6, 9]


def test_a_long_act_goes_no_further_than_it_said(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "AT_ONCE", 3)
    dead = letters_of(*["lab_add"] * 5)
    replay_all = Impatient(admin, monkeypatch, LETTERS, "replay", dead[0])
    asked = replay_all.press(minutes="0")
    assert "The newest 1 of more than 1" in asked.content.decode()
    assert replay_all.press(asked, minutes="0").status_code == 302
    assert Job.objects.count() == 3


@pytest.mark.parametrize("page", [JOBS, LETTERS])
def test_what_makes_no_sense_is_a_400_and_no_error_of_the_server(admin: Client, page: str) -> None:
    chosen = {"action": "cancel" if page == JOBS else "replay", "_selected_action": "x"}
    assert admin.post(reverse(page), chosen).status_code == 400
    assert admin.get(reverse(page), {"task__regex": "("}).status_code == 400
    assert admin.get(page_of(job()), {"_to_field": ""}).status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("column", ["since", "created_at__gte"])
def test_a_time_that_the_database_does_not_know_is_a_400_as_well(admin: Client, column: str) -> None:
    for page in (JOBS, LETTERS):
        assert admin.get(reverse(page), {column: "2026-02-05T09:00+23:00"}).status_code == 400
    question = confirmed(asked_at="2026-02-05T09:00+23:00")
    assert admin.post(button(job(), "cancel"), question).status_code == 400
    assert Job.objects.get().state == "queued"


def test_a_row_to_go_on_behind_that_is_no_id_is_asked_again(admin: Client) -> None:
    choice = {"action": "cancel", "_selected_action": str(job().pk)}
    assert admin.post(reverse(JOBS), confirmed(**choice, last_id=10**20)).status_code == 200
    assert Job.objects.get().state == "queued"


def test_many_are_cancelled_at_once_and_a_chords_part_tells_its_body(admin: Client) -> None:
    waiting, running, over = job(), job(state="running"), job(state="succeeded", finished_at=timezone.now())
    part = job(options={"chord": {"task": "tasks.lab_nothing"}, "group_id": str(uuid4())})
    assert ledger.cancel_many([waiting.pk, running.pk, over.pk, part.pk]) == {waiting.pk, running.pk, part.pk}
    assert dict(Job.objects.values_list("pk", "state")) == {
        waiting.pk: "cancelled",
        running.pk: "running",
        over.pk: "succeeded",
        part.pk: "cancelled",
    }


# --- Dead letters -----------------------------------------------------------------------------------------------------


def test_arguments_are_corrected_before_a_replay(admin: Client) -> None:
    dead = letter(args=[1], kwargs={"y": "two"})
    assert "&quot;x&quot;: 1" in admin.get(replay_page(dead)).content.decode()
    assert "Replayed as job" in replay(admin, dead, {"x": 1, "y": 2})
    assert Job.objects.get().kwargs == {"x": 1, "y": 2}
    assert LogEntry.objects.get().change_message == "Replayed with corrected arguments."


def test_arguments_that_fit_no_signature_are_given_anew(admin: Client) -> None:
    dead = letter(args=[1, 2, 3], kwargs={}, kind="wrong_arguments")
    assert "Replayed as job" in replay(admin, dead, {"x": 1, "y": 2})
    assert Job.objects.get().kwargs == {"x": 1, "y": 2}


def test_arguments_that_nobody_touched_are_replayed_as_they_were(admin: Client) -> None:
    moment = timezone.now()
    dead = letter(task="tasks.lab_unique", kwargs={"key": moment})
    form = admin.get(replay_page(dead)).context["form"]
    admin.post(replay_page(dead), {"arguments": form.initial["arguments"]})
    assert Job.objects.get().kwargs == {"key": moment}
    assert LogEntry.objects.get().change_message == "Replayed."


@pytest.mark.parametrize(("died_with", "typed"), [(7.0, "7"), (1, "true")])
def test_a_correction_that_python_calls_equal_is_a_correction(admin: Client, died_with: Any, typed: str) -> None:
    dead = letter(task="tasks.lab_unique", kwargs={"key": died_with})
    admin.post(replay_page(dead), {"arguments": f'{{"key": {typed}}}'})
    assert json.dumps(Job.objects.get().kwargs["key"]) == typed
    assert LogEntry.objects.get().change_message == "Replayed with corrected arguments."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("{", "This is not JSON"),
        ("[1]", "an object by name"),
        ('{"x": NaN, "y": 1}', "NaN is no number"),
        ('{"x": "\\u0000", "y": 1}', "a NUL"),
        ('{"x": "\\ud800", "y": 1}', "half a character"),
        ('{"x": 1}', "do not fit tasks.lab_add"),
        ("[" * 50_000, "JSON|nested"),
        ('{"x": {"__type__": "datetime", "__value__": 5}, "y": 1}', "not a value of its __type__"),
        ('{"x": {"__type__": "decimal", "__value__": "x"}, "y": 1}', "not a value of its __type__"),
        ('{"x": {"__type__": "uuid", "__value__": {"hex": 5}}, "y": 1}', "not a value of its __type__"),
        ('{"x": {"__type__": [], "__value__": 5}, "y": 1}', "not a value of its __type__"),
    ],
)
def test_arguments_that_cannot_be_are_refused_with_the_reason(admin: Client, arguments: str, sentence: str) -> None:
    dead = letter()
    said = admin.post(replay_page(dead), {"arguments": arguments}).content.decode()
    assert any(part in said for part in sentence.split("|"))
    assert escape(arguments) in said
    dead.refresh_from_db()
    assert (dead.state, Job.objects.count()) == ("open", 0)


def test_what_is_too_deep_to_be_shown_is_replayed_but_not_corrected(admin: Client) -> None:
    deep: Any = "core"
    for _ in range(400):
        deep = [deep]
    dead = letter(task="tasks.lab_unique", kwargs={"key": deep})
    shown = admin.get(replay_page(dead)).context["form"].initial["arguments"]
    said = admin.post(replay_page(dead), {"arguments": shown.replace('"key"', '"other"')}).content.decode()
    assert "would be lost" in said
    admin.post(replay_page(dead), {"arguments": shown})
    assert Job.objects.get().kwargs == {"key": deep}


def test_a_secret_argument_is_not_shown_and_stays_what_it_was(admin: Client) -> None:
    name, secret = secret_task()
    dead = letter(task=name, kwargs=sensitive.seal({secret: "hunter2"}, [secret]))
    content = admin.get(replay_page(dead)).content.decode()
    assert "***" in content
    assert "__sealed__" not in content
    replay(admin, dead, {secret: "***"})
    assert sensitive.unseal(Job.objects.get().kwargs) == {secret: "hunter2"}


def test_a_secret_argument_that_is_corrected_is_sealed_again(admin: Client) -> None:
    name, secret = secret_task()
    dead = letter(task=name, kwargs=sensitive.seal({secret: "hunter2"}, [secret]))
    replay(admin, dead, {secret: "hunter3"})
    kwargs = Job.objects.get().kwargs
    assert "hunter3" not in json.dumps(kwargs)
    assert sensitive.unseal(kwargs) == {secret: "hunter3"}


def secret_task() -> tuple[str, str]:
    """The name of a task that takes one secret, and of that."""
    return lab_secret.name, lab_secret.sensitive[0]


def test_a_letter_that_is_resolved_says_by_whom_and_is_not_replayed(admin: Client) -> None:
    dead = letter()
    replay(admin, dead, {"x": 1, "y": 2})
    assert "was replayed already by admin: nothing was done" in replay(admin, dead, {"x": 1, "y": 2})
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("in_bulk", [True, False], ids=["in bulk", "one"])
def test_two_operators_who_replay_a_letter_at_once_make_one_job(in_bulk: bool) -> None:
    dead, start = letter(), Barrier(2)
    clients = [signed_in(User.objects.create_superuser(name)) for name in ("ada", "bert")]

    def press(client: Client) -> str:
        """In a thread, which has a connection of its own."""
        try:
            start.wait()
            if in_bulk:
                return act(client, LETTERS, "replay", dead, confirmed="yes", minutes="0").content.decode()
            return replay(client, dead, {"x": 1, "y": 2})
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(press, clients))
    dead.refresh_from_db()
    assert (Job.objects.count(), dead.state) == (1, "replayed")
    assert sum("Replayed" in page.split('<ul class="messagelist">')[1].split("</ul>")[0] for page in said) == 1
    assert LogEntry.objects.count() == 1


def test_letters_of_one_cause_are_one_line_with_their_number_and_times(admin: Client) -> None:
    now = timezone.now()
    for hours in (3, 2, 1):
        letter(fingerprint="a" * 32, message=f"{hours} hours ago", created_at=now - timedelta(hours=hours))
    letter(fingerprint="b" * 32, task="tasks.lab_fail", state="replayed")
    page = admin.get(reverse(CAUSES))
    [cause] = page.context["causes"]
    assert (cause.count, cause.first, cause.last) == (3, now - timedelta(hours=3), now - timedelta(hours=1))
    assert cause.message == "1 hours ago"
    assert f"state__exact=open&amp;fingerprint={'a' * 32}" in page.content.decode()


def test_a_cause_is_replayed_as_a_whole(admin: Client) -> None:
    letters = [letter(fingerprint="a" * 32) for _ in range(3)]
    other = letter(fingerprint="b" * 32)
    address = f"{reverse(LETTERS)}?state__exact=open&fingerprint={'a' * 32}"
    choice = {"action": "replay", "_selected_action": str(letters[0].pk), "select_across": "1"}
    assert "Replay 3 dead letters?" in admin.post(address, choice).content.decode()
    admin.post(address, confirmed(**choice, minutes="0"))
    other.refresh_from_db()
    assert (Job.objects.count(), other.state) == (3, "open")


def test_a_reason_may_be_any_text(admin: Client) -> None:
    dead = letter()
    act(admin, LETTERS, "discard", dead, confirmed="yes", reason='<script>alert(1)</script>\n=1+1 [{"added": {}}]')
    history = admin.get(reverse("admin:jobs_deadletter_history", args=[dead.pk])).content.decode()
    assert "<script>alert(1)" not in history
    assert "Discarded: &lt;script&gt;" in history


# --- Export -----------------------------------------------------------------------------------------------------------


def export(client: Client, action: str, *rows: DeadLetter) -> str:
    answer: HttpResponse = client.post(  # type: ignore[assignment]
        reverse(LETTERS), {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    )
    assert "attachment" in answer["Content-Disposition"]
    return b"".join(answer.streaming_content).decode("utf-8-sig")  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_an_exported_csv_is_a_formula(admin: Client, start: str) -> None:
    evil = f'{start}cmd|"/C calc"!A0'
    dead = letter(message=evil, exception=evil, task=evil, traceback=evil, reason=evil)
    [row] = csv.DictReader(io.StringIO(export(admin, "export_csv", dead), newline=""))
    assert {row[name] for name in ("message", "exception", "task", "traceback", "reason")} == {f"'{evil}"}


@pytest.mark.parametrize("action", ["export_csv", "export_json"])
def test_an_export_masks_secrets(admin: Client, action: str) -> None:
    dead = letter(kwargs={**sensitive.seal({"token": "hunter2"}, ["token"]), "user_id": 7})
    text = export(admin, action, dead)
    assert "***" in text
    assert "user_id" in text
    assert "__sealed__" not in text


def test_an_exported_json_is_a_list_of_letters(admin: Client) -> None:
    letters = [letter(message='a "quote" and a\nline', kwargs={"when": timezone.now()}) for _ in range(2)]
    found = json.loads(export(admin, "export_json", *letters))
    assert {row["id"] for row in found} == {str(row.pk) for row in letters}
    assert {row["message"] for row in found} == {'a "quote" and a\nline'}


def test_an_export_of_more_than_a_chunk_has_every_letter(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.jobs.admin.export.CHUNK", 2)
    letters = [letter() for _ in range(5)]
    assert len(json.loads(export(admin, "export_json", *letters))) == 5
    assert len(export(admin, "export_csv", *letters).splitlines()) == 6


def test_under_asgi_an_export_is_sent_while_it_is_written() -> None:
    user, dead, client = User.objects.create_superuser("admin"), letter(), AsyncClient()
    client.force_login(user)

    async def fetch() -> list[bytes]:
        answer = await client.post(reverse(LETTERS), {"action": "export_json", "_selected_action": [str(dead.pk)]})
        assert answer.is_async  # type: ignore[attr-defined]
        return [chunk async for chunk in answer.streaming_content]  # type: ignore[attr-defined]

    chunks = async_to_sync(fetch)()
    assert [row["id"] for row in json.loads(b"".join(chunks))] == [str(dead.pk)]


# --- Queues, workers, schedules ---------------------------------------------------------------------------------------


def test_the_queues_page_shows_what_waits_and_what_is_paused(admin: Client) -> None:
    job(queue="low")
    QueuePause.objects.create(queue="low", reason="Maintenance.", until=timezone.now() + timedelta(hours=1))
    QueuePause.objects.create(queue="io", until=timezone.now() - timedelta(hours=1))
    rows = {
        status.name: (status.waiting, policy.max_depth, pause and pause.reason)
        for status, policy, pause in admin.get(reverse(QUEUES)).context["rows"]
    }
    assert rows["low"] == (1, 200_000, "Maintenance.")
    assert rows["io"] == (0, 50_000, None)


def test_resuming_says_what_it_did_and_the_second_time_that_there_was_nothing_to_do(admin: Client) -> None:
    QueuePause.objects.create(queue="low")
    resume = reverse("admin:jobs_queuepause_resume", args=["low"])
    assert "Resumed low" in admin.post(resume, follow=True).content.decode()
    assert "was not paused" in admin.post(resume, follow=True).content.decode()
    assert not QueuePause.objects.exists()
    assert LogEntry.objects.get().change_message == "Resumed."


def test_a_pause_that_would_be_over_already_is_refused(admin: Client) -> None:
    hour_ago = timezone.now() - timedelta(hours=1)
    form = {"queue": "low", "reason": "", "until": f"{hour_ago:%Y-%m-%dT%H:%M}"}
    assert "This is over already" in admin.post(reverse("admin:jobs_queuepause_add"), form).content.decode()


def test_a_pause_whose_end_is_far_away_is_refused(admin: Client) -> None:
    form = {"queue": "low", "reason": "", "until": "9999-12-31T23:59-12:00"}
    assert "A pause ends within a year" in admin.post(reverse("admin:jobs_queuepause_add"), form).content.decode()
    assert admin.get(reverse(QUEUES)).status_code == 200


def test_a_queue_whose_pause_has_ended_is_paused_again_and_one_that_is_paused_is_not(admin: Client) -> None:
    QueuePause.objects.create(queue="io", reason="Once.", until=timezone.now() - timedelta(hours=1))
    form = {"queue": "io", "reason": "Again.", "until": ""}
    admin.post(reverse("admin:jobs_queuepause_add"), form)
    pause = QueuePause.objects.get()
    assert (pause.reason, pause.until) == ("Again.", None)
    again = admin.post(reverse("admin:jobs_queuepause_add"), {**form, "reason": "And again."})
    assert "It is paused already." in again.content.decode()
    assert QueuePause.objects.get().reason == "Again."


def test_a_pause_has_the_end_that_was_typed(admin: Client) -> None:
    end = datetime.now(UTC).replace(hour=12, minute=30, second=0, microsecond=0) + timedelta(days=300)
    form = {"queue": "low", "reason": "Maintenance.", "until": f"{end:%Y-%m-%dT%H:%M}"}
    admin.post(reverse("admin:jobs_queuepause_add"), form)
    assert QueuePause.objects.get().until == end
    QueuePause.objects.all().delete()
    admin.post(reverse("admin:jobs_queuepause_add"), {**form, "until": f"{end:%Y-%m-%dT%H:%M}+23:00"})
    assert QueuePause.objects.get().until == end - timedelta(hours=23)
    change = admin.get(reverse("admin:jobs_queuepause_change", args=["low"])).content.decode()
    assert 'type="datetime-local"' in change
    assert f'value="{end - timedelta(hours=23):%Y-%m-%dT%H:%M}"' in change


@pytest.mark.usefixtures("wrong_clock")
def test_a_worker_is_up_stopped_or_gone(admin: Client) -> None:
    workers: tuple[tuple[str, dict[str, Any]], ...] = (
        ("up@host", {}),
        ("stopped@host", {"stopped_at": Now()}),
        ("gone@host", {"heartbeat_at": Now() - timedelta(seconds=31)}),
    )
    for name, fields in workers:
        Worker.objects.create(name=name, pid=1, pool="prefork", size=4, busy=1, queues=["high"], **fields)
    content = admin.get(reverse("admin:jobs_worker_changelist")).content.decode()
    for state in ("up", "stopped", "gone"):
        assert f'state-{state}">{state}' in content
    assert "1 of 4" in content
    only_up = admin.get(reverse("admin:jobs_worker_changelist"), {"up": "yes"}).content.decode()
    assert ("up@host" in only_up, "gone@host" in only_up) == (True, False)


def test_a_schedule_is_run_now_and_its_page_shows_what_became_of_it(admin: Client) -> None:
    model = schedule()
    said = act(admin, SCHEDULES, "run_now", model).content.decode()
    started = Job.objects.get()
    assert (started.task, SchedulePolicy.objects.get(schedule=model).last_job_id) == ("tasks.lab_nothing", started.pk)
    assert page_of(started) in said
    assert 'state-queued">queued' in admin.get(reverse(SCHEDULES)).content.decode()
    assert str(started.pk) in LogEntry.objects.get().change_message


@pytest.mark.parametrize(
    ("name", "enabled", "said"), [("enable_tasks", False, "Enabled."), ("disable_tasks", True, "Disabled.")]
)
def test_who_switched_a_schedule_is_said_also_of_a_list_that_it_left(
    admin: Client, name: str, enabled: bool, said: str
) -> None:
    model = schedule()
    PeriodicTask.objects.filter(pk=model.pk).update(enabled=enabled)
    address = f"{reverse(SCHEDULES)}?enabled__exact={int(enabled)}"
    admin.post(address, {"action": name, "_selected_action": str(model.pk)})
    model.refresh_from_db()
    assert model.enabled is not enabled
    assert LogEntry.objects.get(object_id=str(model.pk)).change_message == said


@pytest.mark.parametrize("was_on", [False, True])
def test_a_schedule_that_was_off_has_missed_nothing_when_it_is_enabled_again(admin: Client, was_on: bool) -> None:
    model = schedule()
    last_year = timezone.now() - timedelta(days=365)
    PeriodicTask.objects.filter(pk=model.pk).update(enabled=was_on, last_run_at=None, date_changed=last_year)
    act(admin, SCHEDULES, "enable_tasks", model)
    model.refresh_from_db()
    due = next_tick(model)
    assert due is not None
    assert (due < timezone.now()) is was_on


def test_a_list_of_schedules_asks_no_query_for_each_row(admin: Client) -> None:
    for model in PeriodicTask.objects.filter(enabled=True)[:2]:
        SchedulePolicy.objects.filter(schedule=model).update(last_job_id=job().pk)
    with CaptureQueriesContext(connection) as queries:
        assert 'state-queued">queued' in admin.get(reverse(SCHEDULES)).content.decode()
    for table in ("jobs_schedulepolicy", "jobs_job"):
        assert sum(f'FROM "{table}"' in query["sql"] for query in queries) <= 1


def test_a_schedule_whose_task_is_unknown_says_so(admin: Client) -> None:
    said = act(admin, SCHEDULES, "run_now", schedule("tasks.of_yesterday")).content.decode()
    assert "no task is named" in said
    assert not Job.objects.exists()


def test_a_schedule_whose_arguments_nobody_can_read_says_so(admin: Client) -> None:
    model = schedule()
    PeriodicTask.objects.filter(pk=model.pk).update(kwargs='{"x": {"__type__": "decimal", "__value__": "x"}}')
    assert "was not started" in act(admin, SCHEDULES, "run_now", model).content.decode()
    assert not Job.objects.exists()


def test_a_schedule_that_is_due_after_the_end_of_the_calendar_leaves_the_list_as_it_is(admin: Client) -> None:
    interval = IntervalSchedule.objects.create(every=10_000_000, period=IntervalSchedule.DAYS)
    PeriodicTask.objects.filter(pk=schedule().pk).update(interval=interval)
    assert "never: it cannot be used" in admin.get(reverse(SCHEDULES)).content.decode()


def test_every_permission_to_act_exists() -> None:
    assert set(Permission.objects.filter(codename__in=ACTS).values_list("codename", flat=True)) == set(ACTS)
