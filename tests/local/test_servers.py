import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
import pytest
import redis

from apps.jobs.broker import CLOCK
from apps.local import account, children
from apps.local.places import ROOT
from apps.local.ports import free_port
from apps.local.postgres import FAST_AND_LOOSE, PostgresServer, ServerError
from apps.local.servers import Servers
from apps.local.stack import Stack
from apps.local.valkey import ValkeyServer
from apps.local.waiting import wait_for


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One for all tests here: each leaves it running."""
    server = PostgresServer(tmp_path_factory.mktemp("servers") / "postgres", password="secret", settings=FAST_AND_LOOSE)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path / "valkey", password="secret")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def run(server: PostgresServer, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(), connect_timeout=5) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_postgres_keeps_its_data_through_every_kind_of_restart(postgres: PostgresServer) -> None:
    run(postgres, "CREATE TABLE note AS SELECT 1 AS id")
    postgres.restart("fast")
    postgres.restart("immediate")
    postgres.kill9()
    postgres.start()
    assert run(postgres, "SELECT id FROM note") == [(1,)]


def test_a_database_speaks_every_language_and_needs_no_locale_of_the_system(postgres: PostgresServer) -> None:
    columns = "pg_encoding_to_char(encoding), datlocprovider, datlocale, datcollate, datctype"
    query = f"SELECT {columns} FROM pg_database WHERE datname = current_database()"
    assert run(postgres, query) == [("UTF8", "b", "C.UTF-8", "C", "C")]
    assert run(postgres, "SELECT upper('é')") == [("É",)]


def test_a_suspended_postgres_accepts_connections_and_answers_none(postgres: PostgresServer) -> None:
    postgres.suspend()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(postgres.url(), connect_timeout=2)
    postgres.resume()
    assert run(postgres, "SELECT 1") == [(1,)]


def test_postgres_runs_anew_when_one_of_its_processes_was_killed(postgres: PostgresServer) -> None:
    """Which its own start time does not say; the relay's mark in the broker has to."""
    before = run(postgres, CLOCK)[0][1]
    assert run(postgres, CLOCK)[0][1] == before
    with psycopg.connect(postgres.url()) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return run(postgres, CLOCK)[0][1] != before
        except psycopg.OperationalError:
            return False

    assert wait_for(is_back, 30)


def test_postgres_wants_the_password(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url().replace("secret", "guess"))


def test_postgres_says_why_it_did_not_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = PostgresServer(tmp_path / "postgres", password="secret", port=taken.getsockname()[1])
        with pytest.raises(ServerError, match="could not create any TCP/IP sockets"):
            server.start()
    server.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere initdb goes on by itself")
def test_a_first_start_that_was_killed_half_way_is_begun_again(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", password="secret", settings=FAST_AND_LOOSE)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from apps.local.postgres import PostgresServer
        PostgresServer(Path({str(tmp_path)!r}, "postgres"), password="secret").start()
    """)
    first = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    assert wait_for(lambda: any(server.home.glob("*/PG_VERSION")), 30)
    initdb, *below = psutil.Process(first.pid).children(recursive=True)
    for member in (initdb, *below):
        member.suspend()
    first.kill()
    first.wait()
    died = wait_for(lambda: not children.is_alive(initdb), 10)
    for member in (initdb, *below):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    server.start()
    assert run(server, "SELECT 1") == [(1,)]
    server.remove()
    assert died


def test_postgres_says_why_it_could_not_make_its_data_folder(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", password="")
    with pytest.raises(ServerError, match=r"could not make its data folder: .*password"):
        server.start()
    assert not server.data.exists()
    server.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is somebody else than the server")
def test_postgres_of_root_runs_as_somebody_else(postgres: PostgresServer) -> None:
    assert postgres.process
    assert psutil.Process(postgres.process.pid).uids().real != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is somebody else than the server")
def test_whatever_the_umask_of_root_postgres_finds_its_folder_and_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_umask: None
) -> None:
    program = tmp_path / "package" / "pginstall" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o700)
    (program.parent / "dangling").symlink_to("nowhere")
    with TemporaryDirectory() as open_folder:
        Path(open_folder).chmod(0o755)
        monkeypatch.setattr(account, "ELSEWHERE", Path(open_folder) / "nightshift")
        somebody = account.server_account()
        home = somebody.home(tmp_path / "postgres")
        assert somebody.can_enter(home)
        assert somebody.can_enter(somebody.reachable(tmp_path / "package", home) / "pginstall" / "bin" / "postgres")


def test_valkey_keeps_its_data_through_a_restart(valkey_server: ValkeyServer) -> None:
    valkey_server.client().set("note", "1")
    valkey_server.restart()
    assert valkey_server.client().get("note") == b"1"


def test_valkey_refuses_writes_rather_than_forget_older_ones(valkey_server: ValkeyServer) -> None:
    client = valkey_server.client()
    client.set("note", "1")
    client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.OutOfMemoryError):
        client.set("large", "x" * 3_000_000)
    assert client.get("note") == b"1"


def test_valkey_wants_the_password_and_keeps_it_from_other_accounts(valkey_server: ValkeyServer) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=valkey_server.port).ping()
    assert (valkey_server.home / "valkey.conf").stat().st_mode & 0o077 == 0


def test_a_busy_port_is_stepped_around() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_servers_that_a_person_names_are_not_started_again(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgres://%2Fvar%2Frun/shop", "REDIS_URL": "redis://localhost"}
    servers = Servers(tmp_path, given)
    assert servers.start() == {"REDIS_URL": "redis://localhost", "CELERY_BROKER_URL": "redis://localhost"}
    assert servers.started == {}


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"])
def test_no_demo_is_played_on_the_servers_of_another_machine(tmp_path: Path, name: str) -> None:
    given = {
        "DATABASE_URL": "postgres://127.0.0.1/shop",
        "REDIS_URL": "redis://[::1]",
        name: "redis://:word@db.shop.example",
    }
    servers = Servers(tmp_path, given)
    with pytest.raises(ServerError, match=f"{name} names a server on another machine, db.shop.example"):
        servers.start()
    assert servers.started == {}


@pytest.mark.parametrize(
    ("broker", "given"), [("postgresql", {}), ("sqs", {}), ("redis", {"CELERY_BROKER_URL": "pgmq://"})]
)
def test_with_another_broker_there_is_no_redis(tmp_path: Path, broker: str, given: dict[str, str]) -> None:
    servers = Servers(tmp_path, {"DATABASE_URL": "postgres://127.0.0.1/shop", **given}, broker)
    assert "REDIS_URL" not in servers.start()
    assert servers.started == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start sweeps")
def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from apps.local.servers import Servers
        Servers(Path({str(tmp_path)!r}), {{}}).start()
        Path({str(tmp_path)!r}, "ready").touch()
        signal.pause()
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    assert wait_for((tmp_path / "ready").exists, 60)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert {"postgres", "valkey-server"} <= {member.name() for member in family}
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(children.is_alive(member) for member in family), 20)


def test_a_server_of_the_demo_that_dies_is_started_again_where_it_was(tmp_path: Path) -> None:
    said: list[str] = []

    def say(name: str, what: str) -> None:
        said.append(f"{name} {what.partition(' (')[0]}")
        stack.supervisor.stop_requests = len(said) // 4

    stack = Stack(tmp_path, {}, say)
    addresses = stack.servers.start()
    try:
        for server in stack.servers.started.values():
            assert server.process
            server.process.kill()
            server.process.wait()
        stack.watch()
        with psycopg.connect(addresses["DATABASE_URL"]) as database:
            assert database.execute("SELECT 1").fetchone() == (1,)
        assert redis.Redis.from_url(addresses["REDIS_URL"]).ping()
    finally:
        stack.stop()
    assert said == [
        f"{name} {what}" for name in ("postgres", "valkey") for what in ("died; starting it again", "started again")
    ]


def test_a_sweep_stops_what_an_earlier_run_left_and_nobody_else(tmp_path: Path) -> None:
    ours, stranger = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    children.remember(ours.pid, tmp_path / "ours.pid")
    noted = (tmp_path / "ours.pid").read_text()
    # The stranger got the number of a process that had started earlier.
    earlier = noted.replace(str(ours.pid), str(stranger.pid)).replace('"started": ', '"started": 1')
    (tmp_path / "stranger.pid").write_text(earlier)
    assert children.sweep(tmp_path) == ["ours"]
    assert ours.poll() is not None
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_of_a_copied_checkout_leaves_the_originals_processes_alone(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "600"])
    children.remember(process.pid, tmp_path / "original" / "web.pid")
    copy = shutil.copytree(tmp_path / "original", tmp_path / "copy")
    assert children.sweep(copy) == []
    assert list(copy.iterdir()) == []
    assert process.poll() is None
    assert children.sweep(tmp_path / "original") == ["web"]
    process.wait()
