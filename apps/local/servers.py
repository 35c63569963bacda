"""The demo's PostgreSQL and Valkey: their data and passwords last from one start to the next."""

from collections.abc import Mapping
from pathlib import Path

from apps.local.places import kept_secret
from apps.local.ports import free_port
from apps.local.postgres import PostgresServer
from apps.local.valkey import ValkeyServer

# Not the ports of a machine's own servers, so that nobody mistakes one for the other.
POSTGRES_PORT, VALKEY_PORT = 54320, 63790


class Servers:
    """A server that `given` (a person's own environment) names already is used, and none is started in its place."""

    def __init__(self, folder: Path, given: Mapping[str, str]) -> None:
        self.folder = folder
        self.given = given
        self.started: list[PostgresServer | ValkeyServer] = []

    def start(self) -> dict[str, str]:
        """Return the addresses, under the names of the settings."""
        database = self.given.get("DATABASE_URL") or self._start(self._postgres())
        redis = self.given.get("REDIS_URL") or self._start(self._valkey())
        broker = self.given.get("CELERY_BROKER_URL") or redis
        return {"DATABASE_URL": database, "REDIS_URL": redis, "CELERY_BROKER_URL": broker}

    def stop(self) -> None:
        for server in self.started:
            server.stop()
        self.started.clear()

    def _start(self, server: PostgresServer | ValkeyServer) -> str:
        self.started.append(server)
        server.start()
        return server.url()

    def _postgres(self) -> PostgresServer:
        return PostgresServer(
            self.folder / "postgres",
            password=kept_secret("postgres", self.folder / "secrets"),
            port=free_port(POSTGRES_PORT),
            pid_file=self.folder / "run" / "postgres.pid",
        )

    def _valkey(self) -> ValkeyServer:
        return ValkeyServer(
            self.folder / "valkey",
            password=kept_secret("valkey", self.folder / "secrets"),
            port=free_port(VALKEY_PORT),
            pid_file=self.folder / "run" / "valkey.pid",
        )
