"""PostgreSQL as the broker: what its URL, or the ledger's settings, say of a connection holds for each that is made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from environ import Env
from kombu import Connection

from apps.local.waiting import wait_for
from config.broker import NOTHING, broker_of
from config.celery import app

# As pg_stat_activity shows it. Of all signs, these are the ones that have to be quoted.
NAME = "night's \\ shift"


@dataclass(frozen=True)
class Sessions:
    """Of one transport: the one of its pool, and the one that hears of new messages."""

    pooled: psycopg.Connection[Any]
    listening: psycopg.Connection[Any]

    @property
    def pids(self) -> list[int]:
        return [each.info.backend_pid for each in (self.pooled, self.listening)]

    def told(self, option: str) -> list[str | None]:
        return [each.info.get_parameters().get(option) for each in (self.pooled, self.listening)]

    def names(self) -> list[str]:
        """As the server knows them."""
        shown = self.pooled.execute("SELECT application_name FROM pg_stat_activity WHERE pid = ANY(%s)", [self.pids])
        return [name for (name,) in shown]


@contextmanager
def transport_of(url: str, ledger: Mapping[str, Any] = NOTHING) -> Iterator[Any]:
    broker = broker_of(url, ledger)
    assert app.conf  # which puts our transports in kombu's place
    options = {**broker.options, "pool_timeout": 1}
    transport = Connection(broker.url, transport_options=options).transport
    try:
        yield transport
    finally:
        transport.close_connection(transport)


@contextmanager
def sessions_of(url: str, ledger: Mapping[str, Any] = NOTHING) -> Iterator[Sessions]:
    with transport_of(url, ledger) as transport:
        transport._register_notify_queue("high")
        with transport._get_pgmq_client().pool.connection() as pooled:
            yield Sessions(pooled, transport._get_notify_waiter()._conn)


@pytest.fixture
def ledger(servers: dict[str, str]) -> dict[str, Any]:
    return dict(Env.db_url_config(servers["DATABASE_URL"]))


@pytest.fixture
def url(servers: dict[str, str]) -> str:
    return servers["DATABASE_URL"].replace("postgres://", "pgmq://")


def test_pgmq_alone_connects_as_the_ledger_does(ledger: dict[str, Any]) -> None:
    options = {"application_name": NAME, "keepalives_idle": 7, "pool": True}
    with sessions_of("pgmq://", {**ledger, "OPTIONS": options}) as sessions:
        assert sessions.names() == [NAME, NAME]
        assert sessions.told("keepalives_idle") == ["7", "7"]


def test_what_stands_behind_the_url_is_heeded(url: str) -> None:
    with sessions_of(f"{url}?application_name=night%27s+%5C+shift") as sessions:
        assert sessions.names() == [NAME, NAME]


def test_no_session_outlives_its_transport(url: str) -> None:
    with sessions_of(url) as sessions:
        pids = sessions.pids
    with psycopg.connect(url.replace("pgmq://", "postgres://"), autocommit=True) as witness:
        left = "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)"
        assert wait_for(lambda: witness.execute(left, [pids]).rowcount == 0, 5)


def test_a_host_that_is_cut_off_is_noticed(url: str) -> None:
    with sessions_of(url) as sessions:
        assert sessions.told("tcp_user_timeout") == ["40000", "40000"]
        assert sessions.told("connect_timeout") == ["5", "5"]


def test_a_server_that_shows_no_certificate_gets_no_connection(ledger: dict[str, Any]) -> None:
    with transport_of("pgmq://", {**ledger, "OPTIONS": {"sslmode": "verify-full"}}) as transport:
        with pytest.raises(psycopg.OperationalError):
            transport.establish_connection()
        with pytest.raises(psycopg.OperationalError, match="SSL"):
            transport._register_notify_queue("high")


def test_a_password_that_the_url_leaves_out_is_libpqs_to_find(
    ledger: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", ledger["PASSWORD"])
    with sessions_of("pgmq://", {**ledger, "PASSWORD": ""}) as sessions:
        assert sessions.told("user") == [ledger["USER"]] * 2
