"""A RabbitMQ server of one's own: Debian's program, on free ports, gone when its parent is gone."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from kombu import Connection

from apps.local.children import ended, family_of, spawn
from apps.local.places import private_folder, write_private
from apps.local.ports import any_port
from apps.local.postgres import ServerError
from apps.local.waiting import wait_for

USER = "nightshift"
# Not the one on the PATH, which insists on the machine's own account, folders and node.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = "RabbitMQ is not installed. On Debian or Ubuntu: apt-get install --no-install-recommends rabbitmq-server"


def is_installed() -> bool:
    return PROGRAM.is_file()


class RabbitMQServer:
    """One node with its data in `folder`. `port=0` takes any free port, once, so that a restart keeps the address."""

    def __init__(self, folder: Path, *, password: str, port: int = 0, pid_file: Path | None = None) -> None:
        self.home = private_folder(folder)
        self.log = self.home / "rabbitmq.log"
        self.password = password
        self.port = port or any_port()
        self.distribution_port, self.names_port = any_port(), any_port()
        self.pid_file = pid_file
        self.names: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def url(self) -> str:
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start and wait until it answers, which takes five to ten seconds."""
        if not is_installed():
            raise ServerError(MISSING)
        write_private(self.home / "rabbitmq.conf", self._configuration())
        write_private(self.home / "plugins", "[].\n")
        # Erlang's register of names; a node would start one of its own that outlives it.
        self.names = spawn(["epmd", "-port", str(self.names_port), "-address", "127.0.0.1"], **self._spawned())
        # A script, which takes the server along only if it is asked to stop and not if it is killed.
        self.process = spawn([PROGRAM], pid_file=self.pid_file, when_orphaned=signal.SIGTERM, **self._spawned())
        if not wait_for(lambda: self._answers() or not self.is_running, 90, every=0.2) or not self.is_running:
            raise ServerError(f"RabbitMQ did not start (see {self.log})")

    def stop(self, seconds: float = 30) -> None:
        if self.process and self.is_running:
            self.process.terminate()
            ended(self.process, seconds)
        self.kill9()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill9(self) -> None:
        for process in (self.process, self.names):
            if process:
                for member in family_of(process.pid):
                    member.kill()
                process.wait()
        if self.pid_file:
            self.pid_file.unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _spawned(self) -> dict[str, Any]:
        return {"log": self.log, "cwd": self.home, "env": self._environment()}

    def _environment(self) -> dict[str, str]:
        """Erlang keeps a cookie in the home folder, and RabbitMQ everything else where these say."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "nightshift@localhost",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.home / "data"),
            "RABBITMQ_LOG_BASE": str(self.home),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"),
        }

    def _configuration(self) -> str:
        return (
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"default_user = {USER}\n"
            f"default_pass = {self.password}\n"
            # A guest's disk is often nearly full, at which RabbitMQ would take no more messages.
            "disk_free_limit.absolute = 50MB\n"
        )

    def _answers(self) -> bool:
        try:
            with Connection(self.url(), connect_timeout=1) as connection:
                connection.connect()
        except OSError:
            return False
        return True
