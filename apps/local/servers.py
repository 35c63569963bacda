"""The demo's PostgreSQL and its broker: their data and passwords last from one start to the next."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from apps.local.loopback import is_local
from apps.local.places import kept_secret
from apps.local.ports import free_port
from apps.local.postgres import PostgresServer, ServerError
from apps.local.rabbitmq import RabbitMQServer
from apps.local.valkey import ValkeyServer

# Not the ports of a machine's own servers, so that nobody mistakes one for the other.
POSTGRES_PORT, VALKEY_PORT, RABBITMQ_PORT = 54320, 63790, 56720

# "sqs" is the pretended one, which the demo runs anyway.
BROKERS = ("redis", "rabbitmq", "postgresql", "sqs")

Server = PostgresServer | ValkeyServer | RabbitMQServer


class Servers:
    """A server that `given` (a person's own environment) names already is used, and none is started in its place."""

    def __init__(self, folder: Path, given: Mapping[str, str], broker: str = "redis") -> None:
        self.folder = folder
        self.given = given
        self.broker = broker
        self.started: dict[str, Server] = {}

    def start(self) -> dict[str, str]:
        """Return the addresses of what was started, under the names of the settings."""
        self._refuse_other_hosts()
        addresses = {}
        if not self.given.get("DATABASE_URL"):
            addresses["DATABASE_URL"] = self._start("postgres", self._postgres())
        if not self.given.get("CELERY_BROKER_URL"):
            addresses.update(self._start_broker())
        return addresses

    def _refuse_other_hosts(self) -> None:
        """A `.env` may be that of the real shop, in which a demo would sell, pretend to charge, and break things."""
        for name in ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"):
            host = urlsplit(self.given.get(name, "")).hostname
            if not (is_local(host) or str(host).lower().startswith("%2f")):  # the folder of a socket
                raise ServerError(
                    f"{name} names a server on another machine, {host}. This command invents customers and breaks what "
                    f"it finds, so it uses servers of this machine alone. Give it none, and it starts its own: {name}="
                )

    def _start_broker(self) -> dict[str, str]:
        """Redis only as the broker: without it, PostgreSQL counts and locks."""
        match self.broker:
            case "rabbitmq":
                return {"CELERY_BROKER_URL": self._start("rabbitmq", self._rabbitmq())}
            case "postgresql":
                return {"CELERY_BROKER_URL": "pgmq://"}
            case "sqs":
                return {"CELERY_BROKER_URL": "sqs://"}
            case _:
                url = self.given.get("REDIS_URL") or self._start("valkey", self._valkey())
                return {"REDIS_URL": url, "CELERY_BROKER_URL": url}

    def stop(self) -> None:
        for server in self.started.values():
            server.stop()
        self.started.clear()

    def _start(self, name: str, server: Server) -> str:
        self.started[name] = server
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

    def _rabbitmq(self) -> RabbitMQServer:
        return RabbitMQServer(
            self.folder / "rabbitmq",
            password=kept_secret("rabbitmq", self.folder / "secrets"),
            port=free_port(RABBITMQ_PORT),
            pid_file=self.folder / "run" / "rabbitmq.pid",
        )
