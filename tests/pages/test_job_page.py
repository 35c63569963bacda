from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, expect

from apps.jobs.models import Job
from apps.jobs.sensitive import seal


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


def test_a_job_is_shown_to_its_owner_and_to_staff_and_is_404_for_everybody_else(staff: Client) -> None:
    owner, other = User.objects.create_user("bert"), User.objects.create_user("cleo")
    address = f"/jobs/{a_job(owner=owner).pk}/"
    assert staff.get(address).status_code == 200
    assert signed_in_as(owner).get(address).status_code == 200
    assert signed_in_as(other).get(address).status_code == 404
    assert signed_in_as(other).post(f"{address}cancel/").status_code == 404
    assert Client().get(address).status_code == 302


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


def test_cancelling_ends_a_waiting_job_and_says_so_the_second_time(staff: Client) -> None:
    job = a_job(run_at=timezone.now() + timedelta(hours=1))
    assert "It will not run." in staff.post(f"/jobs/{job.pk}/cancel/", follow=True).text
    assert "nothing to cancel" in staff.post(f"/jobs/{job.pk}/cancel/", follow=True).text
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED


def test_the_page_follows_a_job_to_its_end(open_page: Callable[..., Page], ada: User) -> None:
    job = a_job()
    page = open_page(ada)
    page.goto(f"/jobs/{job.pk}/")
    rows = Job.objects.filter(pk=job.pk)
    progress = {"done": 10, "total": 20, "percent": 50.0, "eta": 4.2, "note": ""}
    rows.update(state="running", attempts=1, started_at=timezone.now(), progress=progress)
    expect(page.locator("[data-job-state]")).to_have_text("running")
    expect(page.locator("[data-job-count]")).to_have_text("10 of 20 · about 5 s left")
    expect(page.locator("progress")).to_have_js_property("value", 50)
    rows.update(state="succeeded", finished_at=timezone.now())
    expect(page.locator(".timeline")).to_contain_text("Succeeded")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
