import json
from collections.abc import Callable
from datetime import UTC, time, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.jobs.models import Job
from apps.jobs.sensitive import seal
from apps.jobs.views import _seen
from tests.cast import shopkeeper


def a_job(**fields: Any) -> Job:
    values = {"task": "tasks.lab_sleep", "kwargs": {"seconds": 5}, "queue": "default", **fields}
    return Job.objects.create(**values)


@pytest.fixture
def staff(client: Client, ada: User) -> Client:
    client.force_login(ada)
    return client


def signed_in_as(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_json_tells_a_page_all_that_it_needs(staff: Client) -> None:
    job = a_job(progress={"done": 5, "total": 20, "percent": 25.0, "eta": 3.0, "note": "reading"})
    found = staff.get(f"/jobs/{job.pk}/?format=json")
    assert found.json() | {"state": "queued", "percent": 25.0, "note": "reading", "finished": False} == found.json()
    assert "no-store" in found["Cache-Control"]


def test_json_is_also_what_a_program_gets_that_accepts_nothing_else(staff: Client) -> None:
    job = a_job()
    assert staff.get(f"/jobs/{job.pk}/", headers={"Accept": "application/json"}).json()["id"] == str(job.pk)
    assert "<h1" in staff.get(f"/jobs/{job.pk}/", headers={"Accept": "text/html,*/*"}).text


@pytest.mark.parametrize("value", [b"\x89PNG", time(12, tzinfo=UTC)])
def test_a_result_that_json_does_not_know_is_told_as_text(staff: Client, rf: RequestFactory, value: Any) -> None:
    """Celery's JSON has stored it, and brings it back as what it was."""
    job = a_job(state=Job.State.SUCCEEDED, finished_at=timezone.now(), result=[value])
    assert staff.get(f"/jobs/{job.pk}/?format=json").json()["result"] == [str(value)]
    assert json.loads(_seen(rf.get("/"), job.pk).pieces["job"])["result"] == [str(value)]


def test_a_job_is_shown_to_its_owner_and_to_staff_and_is_404_for_everybody_else(staff: Client) -> None:
    owner, other = User.objects.create_user("bert"), User.objects.create_user("cleo")
    address = f"/jobs/{a_job(owner=owner).pk}/"
    assert staff.get(address).status_code == 200
    assert signed_in_as(owner).get(address).status_code == 200
    assert signed_in_as(other).get(address).status_code == 404
    assert signed_in_as(other).post(f"{address}cancel/").status_code == 404
    assert Client().get(address).status_code == 302


def test_staff_who_may_not_look_at_jobs_see_their_own_alone(db: None) -> None:
    clerk = shopkeeper("clara")
    client = signed_in_as(clerk)
    assert client.get(f"/jobs/{a_job(owner=clerk).pk}/").status_code == 200
    for owner in (User.objects.create_user("bert"), None):
        address = f"/jobs/{a_job(owner=owner).pk}/"
        for look in (address, f"{address}?format=json", f"{address}events/"):
            assert client.get(look).status_code == 404
        assert client.post(f"{address}cancel/").status_code == 404


def test_a_job_that_does_not_exist_is_404(staff: Client) -> None:
    assert staff.get(f"/jobs/{uuid4()}/?format=json").status_code == 404


def test_a_secret_argument_is_not_shown(staff: Client) -> None:
    job = a_job(kwargs=seal({"token": "hush-hush", "user_id": 7}, ["token"]))
    page = staff.get(f"/jobs/{job.pk}/").text
    assert "token=&#x27;***&#x27;" in page
    assert "user_id=7" in page


def test_a_traceback_is_shown_to_staff_only(staff: Client) -> None:
    owner = User.objects.create_user("bert")
    error = {"at": timezone.now().isoformat(), "exception": "Oops", "message": "It broke.", "traceback": "File x.py"}
    address = f"/jobs/{a_job(owner=owner, errors=[error]).pk}/"
    assert "File x.py" in staff.get(address).text
    assert "It broke." in signed_in_as(owner).get(address).text
    assert "File x.py" not in signed_in_as(owner).get(address).text


def test_cancelling_ends_a_waiting_job_and_says_so_the_second_time(db: None) -> None:
    owner = User.objects.create_user("bert")
    job = a_job(run_at=timezone.now() + timedelta(hours=1), owner=owner)
    assert "Cancel</button>" in signed_in_as(owner).get(f"/jobs/{job.pk}/").text
    assert "It will not run." in signed_in_as(owner).post(f"/jobs/{job.pk}/cancel/", follow=True).text
    assert "nothing to cancel" in signed_in_as(owner).post(f"/jobs/{job.pk}/cancel/", follow=True).text
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED
    assert not LogEntry.objects.exists(), "it was nobody else's"


def test_staff_who_may_only_look_cannot_cancel_what_somebody_else_has_asked_for(staff: Client) -> None:
    job = a_job(owner=User.objects.create_user("bert"))
    assert "Cancel</button>" not in staff.get(f"/jobs/{job.pk}/").text
    assert staff.post(f"/jobs/{job.pk}/cancel/").status_code == 403
    job.refresh_from_db()
    assert job.state == Job.State.QUEUED


@pytest.mark.parametrize("owner", ["bert", None])
def test_an_operator_cancels_anybodys_job_and_the_log_says_who_did(staff: Client, ada: User, owner: str | None) -> None:
    ada.user_permissions.add(Permission.objects.get(codename="cancel_job"))
    job = a_job(owner=User.objects.create_user(owner) if owner else None)
    assert "Cancel</button>" in staff.get(f"/jobs/{job.pk}/").text
    assert "It will not run." in staff.post(f"/jobs/{job.pk}/cancel/", follow=True).text
    assert "nothing to cancel" in staff.post(f"/jobs/{job.pk}/cancel/", follow=True).text
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.change_message) == (ada, str(job.pk), "Cancelled.")


# --- Live -------------------------------------------------------------------------------------------------------------

# A stream tells what has changed within a second, and this machine may be busy.
SOON = 15_000


@pytest.fixture
def running(db: None) -> Job:
    return a_job(**underway(10))


def underway(done: int, **fields: Any) -> dict[str, Any]:
    progress = {"done": done, "total": 20, "percent": done * 5.0, "eta": 4.2, "note": ""}
    return {"state": "running", "attempts": 1, "started_at": timezone.now(), "progress": progress, **fields}


def change(job: Job, **fields: Any) -> None:
    Job.objects.filter(pk=job.pk).update(**fields)


def ended(state: str = "succeeded", **fields: Any) -> dict[str, Any]:
    return {"state": state, "finished_at": timezone.now(), **fields}


def watch(page: Page, job: Job) -> list[str]:
    """Open the job's page, and note what it asks the server for from now on."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/jobs/")[2]))
    page.goto(f"/jobs/{job.pk}/")
    return asked


def no_streams(page: Page, status: int = 503) -> None:
    page.route("**/events/**", lambda route: route.fulfill(status=status))


def see(page: Page, state: str, done: int | None = None) -> None:
    expect(page.locator("[data-job-state]")).to_have_text(state, timeout=SOON)
    if done is not None:
        expect(page.locator("[data-job-count]")).to_contain_text(f"{done} of 20", timeout=SOON)
        expect(page.locator("progress")).to_have_js_property("value", done * 5)


@pytest.mark.parametrize("streams", [True, False], ids=["by a stream", "by asking"])
def test_the_page_follows_a_job_to_its_end(open_page: Callable[..., Page], ada: User, *, streams: bool) -> None:
    job = a_job()
    page = open_page(ada)
    if not streams:
        no_streams(page)
    asked = watch(page, job)
    see(page, "queued")
    change(job, **underway(10))
    see(page, "running", 10)
    expect(page.locator(".timeline")).to_contain_text("Attempt 1 is running")
    change(job, **underway(19))
    see(page, "running", 19)
    change(job, **ended())
    expect(page.locator(".timeline")).to_contain_text("Succeeded", timeout=SOON)
    expect(page.locator("progress")).to_have_js_property("position", 1)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert any("format=json" in address for address in asked) is not streams


def test_a_reload_goes_on_where_the_job_is(open_page: Callable[..., Page], ada: User, running: Job) -> None:
    page = open_page(ada)
    watch(page, running)
    see(page, "running", 10)
    change(running, **underway(12))
    page.reload()
    see(page, "running", 12)


@pytest.mark.parametrize("streams", [True, False], ids=["by a stream", "by asking"])
def test_a_retry_is_shown_with_its_reason_and_the_bar_stays(
    open_page: Callable[..., Page], ada: User, running: Job, *, streams: bool
) -> None:
    page = open_page(ada)
    if not streams:
        no_streams(page)
    watch(page, running)
    see(page, "running", 10)
    error = {"at": timezone.now().isoformat(), "exception": "Busy", "message": "Come <b>later</b>.", "traceback": ""}
    change(running, state="queued", errors=[error], run_at=timezone.now() + timedelta(minutes=1))
    see(page, "queued", 10)
    expect(page.locator("[data-job-error]")).to_have_text("Come <b>later</b>.")
    expect(page.locator(".timeline")).to_contain_text("Attempt 1 failed")


def test_a_dead_worker_is_survived(open_page: Callable[..., Page], ada: User, running: Job) -> None:
    """The job is handed on, and the next worker's attempt is watched by the same page."""
    page = open_page(ada)
    watch(page, running)
    see(page, "running", 10)
    change(running, state="queued", crashes=1, started_at=None, lease_until=None)
    see(page, "queued", 10)
    change(running, **underway(11, attempts=2))
    see(page, "running", 11)
    expect(page.locator(".timeline")).to_contain_text("Attempt 2 is running")


def test_a_job_that_dies_ends_the_watch_with_its_error(open_page: Callable[..., Page], ada: User, running: Job) -> None:
    page = open_page(ada)
    watch(page, running)
    see(page, "running", 10)
    error = {"at": timezone.now().isoformat(), "exception": "Oops", "message": "It broke.", "traceback": ""}
    change(running, **ended("dead", errors=[error]))
    expect(page.locator(".live-error")).to_have_text("It broke.", timeout=SOON)
    expect(page.locator(".ended-dead")).to_be_visible()


def test_a_job_that_is_deleted_while_it_is_watched_is_told(
    open_page: Callable[..., Page], ada: User, running: Job
) -> None:
    page = open_page(ada)
    watch(page, running)
    see(page, "running", 10)
    running.delete()
    expect(page.locator("[data-job-trouble]")).to_contain_text("not there any more", timeout=SOON)


def test_a_stream_is_for_the_owner_and_for_staff_alone(staff: Client) -> None:
    """501: this test's server cannot stream. It is past the question of who asks."""
    owner, other = User.objects.create_user("bert"), User.objects.create_user("cleo")
    address = f"/jobs/{a_job(owner=owner).pk}/events/"
    assert staff.get(address).status_code == 501
    assert signed_in_as(owner).get(address).status_code == 501
    assert signed_in_as(other).get(address).status_code == 404
    assert Client().get(address).status_code == 302
    assert staff.get(f"/jobs/{uuid4()}/events/").status_code == 404
    assert staff.post(address).status_code == 405
