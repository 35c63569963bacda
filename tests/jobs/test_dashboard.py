"""The dashboard's numbers, against rows that are known."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.jobs import queues
from apps.jobs.dashboard import snapshot
from apps.jobs.dashboard.charts import SPANS, Chart, Charts, charts
from apps.jobs.dashboard.charts import counted as counted_over
from apps.jobs.dashboard.levels import levels
from apps.jobs.dashboard.snapshot import Shared
from apps.jobs.dashboard.tallies import percentile
from apps.jobs.metrics.counts import BOUNDS
from apps.jobs.models import FleetMinute, Job, QueueMinute, TaskMinute, Worker

pytestmark = pytest.mark.django_db
NOTHING = [0] * (len(BOUNDS) + 1)
NOW = timezone.now().replace(second=30)
THIS_MINUTE = NOW.replace(second=0, microsecond=0)


@pytest.fixture(autouse=True)
def look_anew() -> None:
    snapshot.forget()


@pytest.fixture
def viewer(client: Client) -> Client:
    user = User.objects.create_user("vera", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(user)
    return client


def counted(task: str = "tasks.lab_sleep", minutes_ago: int = 0, minute: datetime = THIS_MINUTE, **fields: Any) -> None:
    TaskMinute.objects.create(
        minute=minute - timedelta(minutes=minutes_ago),
        task=task,
        **{"queue": "default", "wait_buckets": NOTHING, "run_buckets": NOTHING, **fields},
    )


def chart(slug: str, over: str = "hour") -> Chart:
    return next(chart for chart in charts_over(over).charts if chart.slug == slug)


def charts_over(over: str) -> Charts:
    _, by_step = counted_over(SPANS[over], NOW)
    return charts(SPANS[over], NOW, by_step)


def last_of(slug: str) -> list[float | None]:
    return [line.values[-1] for line in chart(slug).lines]


def test_a_percentile_lies_in_its_bucket() -> None:
    buckets = [*NOTHING]
    buckets[7] = 100  # 0.5 s to 1 s
    assert percentile(buckets, 0.5) == 0.75
    assert percentile(buckets, 0.95) == 0.975


def test_a_percentile_of_nothing_is_unknown_and_one_above_every_bound_is_the_last_bound() -> None:
    assert percentile(NOTHING, 0.5) is None
    assert percentile([*NOTHING[1:], 3], 0.5) == BOUNDS[-1]


def test_the_charts_say_what_was_counted() -> None:
    counted(succeeded=6, failed=2, retried=2)
    counted("tasks.lab_fail", succeeded=2, retried=8)
    assert last_of("failed") == [2, 0.2]
    assert last_of("retried") == [10, 0.5]


def test_a_chart_has_a_gap_where_nothing_is_known_and_no_division_by_zero() -> None:
    counted(minutes_ago=5, received=1)
    failed, share = chart("failed").lines
    assert (failed.values[-6], share.values[-6]) == (0, None)
    assert failed.values[-1] is None


def test_the_lengths_of_the_queues_and_the_busy_slots_come_from_the_samples() -> None:
    QueueMinute.objects.create(minute=THIS_MINUTE, queue="io", waiting=7, running=1, oldest=3)
    FleetMinute.objects.create(minute=THIS_MINUTE, busy=3, size=12)
    assert dict(zip([line.label for line in chart("waiting").lines], last_of("waiting"), strict=True))["io"] == 7
    assert last_of("busy") == [0.25]


def test_queues_that_the_settings_do_not_know_are_one_line() -> None:
    for number in range(30):
        QueueMinute.objects.create(minute=THIS_MINUTE, queue=f"old-{number}", waiting=2, running=0, oldest=3)
    lines = {line.label: line.values[-1] for line in chart("waiting").lines}
    assert len(lines) == 1 + len(settings.JOBS_QUEUES)
    assert lines["other queues"] == 60


def test_minutes_without_a_worker_are_a_gap() -> None:
    FleetMinute.objects.create(minute=THIS_MINUTE, busy=0, size=0)
    assert last_of("busy") == [None]


def test_a_day_is_told_in_steps_of_ten_minutes() -> None:
    counted(succeeded=1, minutes_ago=23 * 60)
    found = charts_over("day")
    assert len(found.times) == 144
    assert {after - before for before, after in zip(found.times, found.times[1:], strict=False)} == {600}
    failed = next(chart for chart in found.charts if chart.slug == "failed").lines[0]
    assert failed.values.count(0) == 1


def test_a_queue_shows_its_rates_its_workers_and_its_pause() -> None:
    counted(queue="high", minute=timezone.now(), succeeded=9, failed=1, retried=0)
    Worker.objects.create(name="w", pid=1, queues=["high", "low"], pool="prefork", size=4, busy=1)
    Job.objects.create(task="tasks.lab_sleep", queue="high", run_at=timezone.now() - timedelta(seconds=60))
    queues.pause("high")
    high, default, *_ = levels().queues
    assert (high.per_minute, high.tally.failure_rate, high.busy, high.size) == (9 / 5, 0.1, 1, 4)
    assert (high.is_late, high.paused, high.is_served) == (True, True, True)
    assert (default.is_late, default.paused, default.is_served) == (False, False, False)


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_here_neither_loses_a_worker_nor_keeps_a_dead_one() -> None:
    for name, silent_for in (("fresh@here", 1), ("dead@here", 31)):
        at = Now() - timedelta(seconds=silent_for)
        Worker.objects.create(name=name, pid=1, queues=["high"], heartbeat_at=at)
    assert levels().workers == 1


def test_the_relay_lags_when_a_due_job_of_an_open_queue_was_not_handed_on() -> None:
    assert levels().relay_lag == 0
    Job.objects.create(task="tasks.lab_sleep", queue="high", run_at=timezone.now() - timedelta(seconds=60))
    assert levels().relay_lag >= 60
    queues.pause("high")
    assert levels().relay_lag == 0
    queues.resume("high")
    Worker.objects.create(name="work-1@here", pid=1, pool="work", queues=["high"])  # it asks the ledger itself
    assert levels().relay_lag == 0


def test_a_visitor_signs_in_and_a_stranger_is_refused(client: Client) -> None:
    assert client.get("/jobs/").status_code == 302
    client.force_login(User.objects.create_user("bert", is_staff=True))
    assert client.get("/jobs/").status_code == 403
    assert client.get("/jobs/events/").status_code == 403


def test_what_is_wrong_stands_first(viewer: Client) -> None:
    assert "No worker reads the queue high." in viewer.get("/jobs/").text


def test_a_span_that_does_not_exist_is_404_and_nothing_can_be_posted(viewer: Client) -> None:
    assert viewer.get("/jobs/?over=century").status_code == 404
    assert viewer.post("/jobs/").status_code == 405


def test_json_has_the_same_pieces_as_the_page(viewer: Client) -> None:
    counted("tasks.<script>", failed=1, queue="default")
    found = viewer.get("/jobs/?format=json").json()
    assert "tasks.&lt;script&gt;" in found["tasks"]
    assert "<h1" not in found["levels"]
    assert [chart["slug"] for chart in found["charts"]["charts"]] == ["waiting", "took", "failed", "retried", "busy"]
    assert found["tasks"].strip() in viewer.get("/jobs/").text


def test_all_who_look_within_a_second_share_one_look(viewer: Client) -> None:
    viewer.get("/jobs/")
    with CaptureQueriesContext(connection) as queries:
        viewer.get("/jobs/")
    assert [query["sql"] for query in queries if "jobs_" in query["sql"]] == []


def test_what_is_slow_to_make_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("apps.jobs.dashboard.snapshot.time.monotonic", lambda: now[0])
    made: list[float] = []

    def make() -> int:
        made.append(now[0])
        now[0] += 2
        return len(made)

    shared = Shared(make, fresh=1)
    assert shared.get() == shared.get() == 1
    now[0] = 19.9
    assert shared.get() == 1
    now[0] = 20.0
    assert shared.get() == 2


def test_a_look_that_failed_is_shared_as_one_that_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("apps.jobs.dashboard.snapshot.time.monotonic", lambda: now[0])
    looks: Iterator[str | Exception] = iter([OperationalError("timeout expired"), "well"])

    def make() -> str:
        now[0] += 5
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    shared = Shared(make, fresh=1)
    for second in (0.0, 5.0, 49.9):
        now[0] = second
        with pytest.raises(OperationalError):
            shared.get()
    now[0] = 50.0
    assert shared.get() == "well"


def test_the_charts_are_plain_json() -> None:
    counted(succeeded=1)
    json.loads(snapshot.look(SPANS["hour"])["charts"])
