"""The system under attack: servers, third parties and processes of its own, and the eyes on them."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import redis

from apps.local.chaos.journal import Journal
from apps.local.chaos.processes import Fleet
from apps.local.chaos.witness import Witness
from apps.local.postgres import PostgresServer
from apps.local.valkey import BROKER, ValkeyServer
from apps.sandbox.client import Sandbox
from config.queues import QUEUES

# Nothing has to survive a power cut here, but a commit has to survive a kill -9: the kernel keeps what was written.
NO_FSYNC = {"fsync": "off", "full_page_writes": "off"}

WORKERS = ("worker-a", "worker-b", "worker-io")
# Which of them have pool processes.
PREFORK = ("worker-a", "worker-b")
# The only worker of the queue `low`.
LOW = "worker-b"
QUEUES_OF = {"worker-a": "high,default", "worker-b": "high,default,low", "worker-io": "io"}
RELAYS = ("relay-1", "relay-2")
BEATS = ("beat-1", "beat-2")
# Beat's own task: often enough that each fault meets a tick.
TICK_SECONDS = 2.0


@dataclass
class World:
    folder: Path
    environment: Mapping[str, str]
    say: Callable[[str], None]
    fleet: Fleet = field(init=False)
    journal: Journal = field(init=False)
    # Jobs that were recorded for an hour from now.
    ahead: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.environment, self.folder / "log")
        self.journal = Journal(self.folder / "journal.jsonl")
        self.witness = Witness(self.environment["DATABASE_URL"])
        self.sandbox = Sandbox(self.environment["SANDBOX_URL"])
        self.postgres = self._postgres()
        self.valkey = self._valkey()

    def _postgres(self) -> PostgresServer:
        address = urlsplit(self.environment["DATABASE_URL"])
        return PostgresServer(
            self.folder / "postgres",
            password=str(address.password),
            port=int(address.port or 0),
            settings=NO_FSYNC,
        )

    def _valkey(self) -> ValkeyServer:
        address = urlsplit(self.environment["REDIS_URL"])
        return ValkeyServer(
            self.folder / "valkey", password=str(address.password), port=int(address.port or 0), settings=BROKER
        )

    def broker(self) -> "redis.Redis":
        return self.valkey.client()

    def running_on(self, worker: str, only: list[str] | None = None) -> int:
        """How many jobs (`only` of these, if it is given) this worker is running."""
        return len(self.held_by(worker, only))

    def held_by(self, worker: str, only: list[str] | None = None) -> dict[str, int]:
        """The jobs that this worker is running, each with its token. Those of an earlier process of its do not count.
        An empty answer, if nobody can say.
        """
        query = """
            SELECT jobs_job.id::text, token FROM jobs_job JOIN jobs_worker ON jobs_worker.id = worker_id
            WHERE jobs_job.state = 'running' AND jobs_worker.name = %s AND jobs_worker.pid = %s
            AND (%s::uuid[] IS NULL OR jobs_job.id = ANY(%s::uuid[]))
        """
        process = self.fleet.members[worker].process
        with suppress(psycopg.Error):
            rows = self.witness.rows(query, f"{worker}@chaos", process and process.pid, only, only)
            return {row["id"]: row["token"] for row in rows}
        return {}

    def runs_again(self, held: dict[str, int]) -> bool:
        """Whether one of these jobs, each with the token that it had, is running under a later one."""
        query = "SELECT id::text, token FROM jobs_job WHERE state = 'running' AND id = ANY(%s::uuid[])"
        with suppress(psycopg.Error):
            return any(row["token"] > held[row["id"]] for row in self.witness.rows(query, list(held)))
        return False

    def sent(self, job_ids: list[str]) -> int:
        """How many of these jobs' messages the broker has got, and nobody has claimed yet."""
        return self._in_state("sent", job_ids)

    def running(self, job_ids: list[str]) -> int:
        return self._in_state("running", job_ids)

    def _in_state(self, state: str, job_ids: list[str]) -> int:
        """0, if nobody can say."""
        query = "SELECT count(*) FROM jobs_job WHERE state = %s AND id = ANY(%s::uuid[])"
        with suppress(psycopg.Error):
            return int(self.witness.value(query, state, job_ids))
        return 0

    def live(self) -> int:
        query = """
            SELECT count(*) FROM jobs_job
            WHERE state IN ('queued', 'sent', 'running') AND NOT id = ANY(%s::uuid[])
        """
        return int(self.witness.value(query, self.ahead))

    def in_broker(self) -> int:
        return len(self.messages())

    def messages(self) -> list[str]:
        """Those in every list of every queue (a priority has a list of its own), and those not acknowledged."""
        with self.broker() as client:
            waiting = [
                f"{key.decode()}: {item.decode()}" for key in self.lists(client) for item in client.lrange(key, 0, -1)
            ]
            return waiting + [f"unacked: {item.decode()}" for item in client.hvals("unacked")]

    def lists(self, client: "redis.Redis") -> list[Any]:
        return [key for queue in QUEUES for key in client.keys(f"{queue}*") if client.type(key) == b"list"]

    def hurry(self) -> None:
        """What an operator does with "retry now", so that the end of a run does not wait for backoffs."""
        self.witness.run(
            "UPDATE jobs_job SET run_at = statement_timestamp()"
            " WHERE state = 'queued' AND run_at > statement_timestamp() AND NOT id = ANY(%s::uuid[])",
            self.ahead,
        )

    def stop(self) -> None:
        """Every process, the servers last. Their data stays."""
        self.fleet.remove("web")
        self.fleet.remove(*WORKERS)
        self.fleet.remove(*list(self.fleet))
        self.valkey.resume()
        self.valkey.stop()
        self.postgres.stop("immediate")

    def forget(self) -> None:
        """Delete the servers' data, which nobody wants to look at after a run that went well."""
        self.postgres.remove()
        shutil.rmtree(self.valkey.home)


def until(condition: Callable[[], Any], seconds: float) -> Callable[[], bool]:
    """True when the condition holds, or when it has not come true for so long."""
    deadline = time.monotonic() + seconds
    return lambda: bool(condition()) or time.monotonic() > deadline
