import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.core.cache import cache
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now
from django.test import Client

from apps.jobs import queues
from apps.jobs.health import probes, readiness
from apps.jobs.health.heartbeats import Heart
from apps.jobs.health.working import troubles
from apps.jobs.metrics.lag import relay_lag
from apps.jobs.models import Heartbeat, Job, Worker
from apps.local.waiting import wait_for
from config.broker import broker_of
from tests.nobody import NOBODY

pytestmark = pytest.mark.django_db

ALL = ["default", "high", "io", "low"]


def ago(seconds: float) -> Any:
    return Now() - timedelta(seconds=seconds)


def worker(**fields: Any) -> Worker:
    defaults: dict[str, Any] = {"name": "worker@here", "pid": 1, "queues": ALL, "consuming": ALL, "started_at": ago(60)}
    return Worker.objects.create(**{**defaults, "size": 4, **fields})


def sent_job(age: float, queue: str = "default") -> Job:
    return Job.objects.create(
        task="tasks.lab_nothing", queue=queue, state=Job.State.SENT, run_at=ago(age), sent_at=ago(age)
    )


@pytest.fixture(autouse=True)
def asked_for_the_first_time() -> None:
    cache.clear()


@pytest.fixture
def relay_and_beat() -> None:
    for process in Heartbeat.Process:
        Heart(process).beat()


def drop(table: str) -> None:
    """It is back at the end of the test."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {table} CASCADE")


def found() -> list[tuple[str, str]]:
    return [(reason.what, reason.about) for reason in troubles()]


@pytest.mark.usefixtures("relay_and_beat")
class TestWorkers:
    def test_nothing_is_wrong_where_everybody_is_there(self) -> None:
        worker()
        assert found() == []

    def test_a_queue_without_a_worker_is_named(self) -> None:
        worker(queues=["default", "high", "io"], consuming=["default", "high", "io"])
        assert found() == [("no_worker", "low")]

    @pytest.mark.parametrize(("column", "seconds"), [("heartbeat_at", 31), ("stopped_at", 1)])
    def test_a_worker_that_is_gone_reads_nothing(self, column: str, seconds: float) -> None:
        worker(**{column: ago(seconds)})
        assert found() == [("no_worker", queue) for queue in ALL]

    def test_a_worker_that_has_lost_a_queue_is_named(self) -> None:
        worker(consuming=["default", "high", "io"])
        assert found() == [("not_consuming", "worker@here")]

    def test_a_worker_that_has_just_been_started_may_not_listen_yet(self) -> None:
        worker(consuming=[], started_at=ago(5))
        assert found() == []

    def test_a_worker_that_may_be_dead_is_not_called_deaf(self) -> None:
        worker(took_up_at=ago(60), heartbeat_at=ago(20))
        sent_job(age=25)
        assert found() == []

    def test_an_idle_worker_that_takes_no_messages_is_named(self) -> None:
        worker(took_up_at=ago(60))
        sent_job(age=25)
        assert found() == [("not_consuming", "worker@here")]

    @pytest.mark.parametrize(("busy", "took_up"), [(4, 60), (0, 3)], ids=["busy", "active"])
    def test_a_worker_at_work_may_leave_a_message_where_it_is(self, busy: int, took_up: float) -> None:
        worker(busy=busy, took_up_at=ago(took_up))
        sent_job(age=25)
        assert found() == []

    def test_of_many_queues_a_few_are_named(self) -> None:
        worker(queues=[*ALL, *(f"queue-{number}" for number in range(400))], consuming=[])
        [reason] = troubles()
        assert reason.said.endswith("does not listen to default, high, io, low, queue-0 and 399 more.")


@pytest.mark.usefixtures("relay_and_beat")
class TestQueues:
    def test_a_job_that_waits_for_too_long_is_told_with_both_times(self) -> None:
        worker(busy=4)
        sent_job(age=15, queue="high")
        [reason] = troubles()
        assert (reason.what, reason.about) == ("oldest", "high")
        assert "15 s" in reason.said
        assert "10 s" in reason.said

    def test_a_job_that_is_due_later_does_not_wait(self) -> None:
        worker()
        Job.objects.create(task="tasks.lab_nothing", queue="high", run_at=ago(-60), created_at=ago(3600))
        assert found() == []

    def test_a_long_queue_is_told(self, settings: Any) -> None:
        from config.queues import QueuePolicy

        settings.JOBS_QUEUES = {"default": QueuePolicy(max_depth=10, oldest_seconds=60, backlog=2)}
        worker(busy=4)
        for _ in range(2):
            sent_job(age=1)
        assert found() == []
        Job.objects.create(task="tasks.lab_nothing", queue="default")
        assert found() == [("backlog", "default")]

    def test_a_paused_queue_may_grow(self) -> None:
        worker()
        sent_job(age=4_000, queue="low")
        queues.pause("low", "The supplier is down")
        assert found() == []


class TestRelayAndBeat:
    def test_their_silence_is_told(self) -> None:
        worker()
        Heart(Heartbeat.Process.BEAT).beat()
        Heartbeat.objects.update(heartbeat_at=ago(31))
        assert found() == [("beat_silent", "beat"), ("relay_silent", "relay")]

    @pytest.mark.usefixtures("relay_and_beat")
    def test_what_keeps_the_only_relay_from_its_work_is_told(self) -> None:
        worker()
        Heartbeat.objects.filter(process="relay").update(trouble="The broker is away.")
        [reason] = troubles()
        assert reason.what == "relay_troubled"
        assert "The broker is away." in reason.said
        Heartbeat.objects.create(name="another", process="relay")
        assert found() == []

    def test_workers_without_a_broker_need_no_relay(self) -> None:
        worker(pool="work")
        Heart(Heartbeat.Process.BEAT).beat()
        assert found() == []

    @pytest.mark.parametrize("end", [{"heartbeat_at": 3_600}, {"stopped_at": 1}], ids=["killed", "stopped"])
    def test_nor_do_they_need_one_while_none_of_them_lives(self, end: dict[str, float]) -> None:
        worker(pool="prefork", heartbeat_at=ago(4_000))  # from before somebody chose to do without
        worker(pool="work", **{column: ago(seconds) for column, seconds in end.items()})
        Heart(Heartbeat.Process.BEAT).beat()
        assert found() == [("no_worker", queue) for queue in ALL]
        Job.objects.create(task="tasks.lab_nothing", queue="default", run_at=ago(40))
        assert relay_lag() == 0

    @pytest.mark.parametrize("pools", [[], ["prefork"], ["work", "prefork"]])
    def test_a_relay_is_missed_where_no_worker_lives_and_one_has_had_need_of_it(self, pools: list[str]) -> None:
        for pool in pools:
            worker(pool=pool, heartbeat_at=ago(3_600))
        Heart(Heartbeat.Process.BEAT).beat()
        assert ("relay_silent", "relay") in found()

    def test_one_that_stops_in_good_order_is_missed_at_once(self) -> None:
        worker()
        hearts = [Heart(process) for process in Heartbeat.Process]
        for heart in hearts:
            heart.beat()
        hearts[0].stop()
        assert found() == [("relay_silent", "relay")]

    def test_a_heart_writes_only_when_it_is_time_to(self, django_assert_num_queries: Any) -> None:
        heart = Heart(Heartbeat.Process.RELAY)
        heart.beat()
        with django_assert_num_queries(0):
            heart.beat()

    def test_it_touches_the_heartbeat_file(self, settings: Any, tmp_path: Any) -> None:
        settings.JOBS_HEARTBEAT_FILE = str(tmp_path / "alive")
        Heart(Heartbeat.Process.RELAY).beat()
        assert (tmp_path / "alive").exists()


@pytest.mark.usefixtures("relay_and_beat", "wrong_clock")
class TestWithAWrongClockHere:
    def test_nobody_is_called_silent_dead_or_deaf_too_soon(self) -> None:
        worker(started_at=ago(5), consuming=[])
        assert found() == []

    def test_who_is_gone_is_missed_in_time(self) -> None:
        worker(heartbeat_at=ago(31))
        Heartbeat.objects.update(heartbeat_at=ago(31))
        missed = [("no_worker", queue) for queue in ALL]
        assert found() == [*missed, ("beat_silent", "beat"), ("relay_silent", "relay")]

    def test_a_deaf_worker_is_named(self) -> None:
        worker(consuming=[], started_at=ago(25))
        assert found() == [("not_consuming", "worker@here")]


class TestAnswers:
    def test_a_stranger_is_told_no_more_than_that_something_is_wrong(self, client: Client) -> None:
        answer = client.get("/health/workers")
        assert (answer.status_code, answer.json()) == (503, {"status": "failing"})

    def test_the_token_is_told_why(self, client: Client, settings: Any) -> None:
        settings.METRICS_TOKEN = "a-token-for-tests"
        answer = client.get("/health/workers", headers={"Authorization": "Bearer a-token-for-tests"})
        assert answer.json()["reasons"][0] == {
            "what": "no_worker",
            "about": "default",
            "said": "No worker reads the queue default.",
        }

    @pytest.mark.parametrize("shown", ["Bearer", "Bearer ", "Bearer another", "Basic a-token-for-tests", "Bearer ü"])
    def test_another_token_is_a_stranger(self, client: Client, settings: Any, shown: str) -> None:
        settings.METRICS_TOKEN = "a-token-for-tests"
        assert "reasons" not in client.get("/health/workers", headers={"Authorization": shown}).json()

    def test_no_token_is_no_key(self, client: Client, settings: Any) -> None:
        settings.METRICS_TOKEN = ""
        assert "reasons" not in client.get("/health/workers", headers={"Authorization": "Bearer "}).json()

    def test_staff_are_told_why_and_customers_are_not(
        self, admin_client: Client, client: Client, django_user_model: Any
    ) -> None:
        assert "reasons" in admin_client.get("/health/workers").json()
        client.force_login(django_user_model.objects.create_user("customer"))
        assert "reasons" not in client.get("/health/workers").json()

    def test_an_answer_is_kept_for_a_second(self, client: Client, django_assert_num_queries: Any) -> None:
        client.get("/health/workers")
        with django_assert_num_queries(0):
            assert client.get("/health/workers").status_code == 503

    def test_what_only_writes_is_refused(self, client: Client) -> None:
        for path in ("live", "ready", "workers"):
            assert client.post(f"/health/{path}").status_code == 405

    def test_a_process_that_answers_is_live_whatever_is_broken(
        self, client: Client, django_assert_num_queries: Any
    ) -> None:
        with django_assert_num_queries(0):
            assert client.get("/health/live").json() == {"status": "ok"}

    def test_a_health_check_is_not_sent_to_https(self, client: Client, settings: Any) -> None:
        settings.SECURE_SSL_REDIRECT = True
        assert client.get("/health/live").status_code == 200


@pytest.fixture
def insider(settings: Any) -> Client:
    settings.METRICS_TOKEN = "a-token-for-tests"
    return Client(headers={"Authorization": "Bearer a-token-for-tests"})


@pytest.fixture
def frozen() -> Iterator[socket.socket]:
    """A server that is connected to, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def use_broker(monkeypatch: pytest.MonkeyPatch, kind: str, server: socket.socket) -> None:
    host, port = server.getsockname()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    broker = broker_of({"sqs": "sqs://"}.get(kind, f"{kind}://user:word@{host}:{port}/"))
    monkeypatch.setitem(current_app.conf.changes, "broker_write_url", broker.url)
    monkeypatch.setitem(current_app.conf.changes, "broker_transport_options", broker.options)


def sessions() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)  # whose connection to the database may be closed
class TestBroker:
    def test_with_everything_there(self, client: Client) -> None:
        assert client.get("/health/ready").status_code == 200
        assert client.get("/health/ready").json() == {"status": "ok"}

    def test_not_without_the_broker(self, insider: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(current_app.conf, "broker_write_url", f"redis://{NOBODY}/0")
        answer = insider.get("/health/ready")
        assert answer.status_code == 503
        assert [reason["what"] for reason in answer.json()["reasons"]] == ["broker"]
        pulling = worker(pool="work")
        cache.clear()
        assert insider.get("/health/ready").status_code == 200
        Worker.objects.filter(pk=pulling.pk).update(heartbeat_at=ago(3_600))
        cache.clear()
        assert insider.get("/health/ready").status_code == 200, "nobody needs it while that one is away, either"

    @pytest.mark.parametrize("kind", ["redis", "amqp", "sqs", "pgmq"])
    def test_a_frozen_broker_is_asked_with_the_patience_of_a_second(
        self, insider: Client, frozen: socket.socket, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        use_broker(monkeypatch, kind, frozen)
        insider.get("/health/ready")  # which imports what this kind needs
        cache.delete(probes.READY)
        began = time.monotonic()
        [reason] = insider.get("/health/ready").json()["reasons"]
        assert (reason["what"], time.monotonic() - began < 3) == ("broker", True)

    def test_many_who_ask_about_a_frozen_broker_ask_it_once_and_hold_no_connection_to_the_database(
        self, frozen: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_broker(monkeypatch, "redis", frozen)
        alone = sessions()
        with ThreadPoolExecutor(10) as pool:
            answers = [pool.submit(Client().get, "/health/ready") for _ in range(10)]
            asked, _ = frozen.accept()
            with asked:
                given_back = wait_for(lambda: sessions() <= alone, 0.9)
                assert (given_back, [answer.done() for answer in answers]) == (True, [False] * 10)
                assert {answer.result().status_code for answer in answers} == {503}
        frozen.setblocking(False)
        with pytest.raises(BlockingIOError):
            frozen.accept()


class TestReady:
    def test_not_before_the_migrations(self, admin_client: Client) -> None:
        latest = MigrationRecorder.Migration.objects.filter(app="jobs").order_by("-name")[0]
        latest.delete()
        answer = admin_client.get("/health/ready")
        assert answer.status_code == 503
        assert f"jobs.{latest.name}" in answer.json()["reasons"][0]["said"]

    def test_not_before_there_is_any_table(self, client: Client, settings: Any) -> None:
        settings.METRICS_TOKEN = "a-token-for-tests"
        MigrationRecorder.Migration.objects.filter(app="jobs").delete()
        drop("jobs_worker")
        answer = client.get("/health/ready", headers={"Authorization": "Bearer a-token-for-tests"})
        assert (answer.status_code, [reason["what"] for reason in answer.json()["reasons"]]) == (503, ["migrations"])

    @pytest.mark.parametrize("address", ["/health/ready", "/health/workers", "/metrics"])
    def test_a_table_that_is_not_there_is_no_error_of_the_servers(
        self, client: Client, settings: Any, address: str
    ) -> None:
        settings.METRICS_TOKEN = "a-token-for-tests"
        cache.set(readiness.MIGRATED, True)
        drop("jobs_worker")
        assert client.get(address, headers={"Authorization": "Bearer a-token-for-tests"}).status_code == 503

    @pytest.mark.parametrize(("address", "status"), [("/health/workers", 503), ("/metrics", 403)])
    def test_without_the_table_of_sessions_everybody_is_a_stranger(
        self, admin_client: Client, address: str, status: int
    ) -> None:
        drop("django_session")
        answer = admin_client.get(address)
        assert answer.status_code == status
        assert "reasons" not in answer.text

    def test_not_without_the_database(self, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from django.db import OperationalError

        def away(*_: Any, **__: Any) -> None:
            raise OperationalError("connection refused")

        settings.METRICS_TOKEN = "a-token-for-tests"
        monkeypatch.setattr(connection, "cursor", away)
        monkeypatch.setattr(connection, "close", lambda: None)
        for path in ("ready", "workers"):
            answer = client.get(f"/health/{path}", headers={"Authorization": "Bearer a-token-for-tests"})
            assert (answer.status_code, answer.json()["reasons"][0]["what"]) == (503, "database")
