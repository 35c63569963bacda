"""The whole system on one machine: servers, third parties, and every line of the Procfile.

Python is slow to start and there may be two cores, so the order is that of need: the pages while the database is being
migrated, the workers when it is, and what only looks on at the end.
"""

import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psycopg

from apps.local import procfile
from apps.local.children import kill_orphans, spawn, sweep
from apps.local.places import ROOT, kept_secret, private_folder
from apps.local.ports import free_ports
from apps.local.postgres import ServerError
from apps.local.servers import Server, Servers
from apps.local.supervisor import Supervisor, ending_of
from apps.local.waiting import wait_for
from config.broker import broker_of

# Where a person would look first; each is stepped around when it is busy.
WEB_PORT, FLOWER_PORT, MOTO_PORT, SANDBOX_PORT, MAIL_PORT = 8000, 5555, 5050, 8787, 8825

# A start of Python costs most of a second of a core: first what shows a page, then what runs a job, then the others.
# Flower, too, comes late, because it complains about what it cannot reach yet.
FIRST, SECOND = {"moto", "web"}, {"relay", "sandbox", "worker"}

# A slow laptop under load: far past what is usual, and short of a person's patience.
PATIENCE = 120


class StartFailed(Exception):
    """Its message says what did not start, and where to read on."""


class Interrupted(Exception):
    """Somebody asked to stop before everything was up."""


class Stack:
    def __init__(
        self, folder: Path, given: Mapping[str, str], say: Callable[[str, str], None], broker: str = "redis"
    ) -> None:
        self.folder = folder
        self.given = given
        self.say = say
        self.servers = Servers(folder, given, broker)
        self.own: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.supervisor = Supervisor(self.environment, folder, say)

    def start(self, *, port: int = WEB_PORT, simulator: bool = True) -> None:
        """Return when a page is served and a worker is up. Raises StartFailed, Interrupted or ServerError."""
        began = time.time()
        self.supervisor.listen_for_signals()
        for name in sweep(self.folder / "run"):
            self.say(name, "was left over from an earlier run; stopped it")
        self.own = {**self.servers.start(), **self.settings(port)}
        # No file besides: beside a demo, a tour on another broker would count in the demo's Redis.
        self.environment.update({**self.given, **self.own, "ENV_FILES": "0"})
        lines = self.lines()
        self.say("servers", "ready")
        self.supervisor.start(line for line in lines if line.name in FIRST)
        self.run("prepare")
        self.say("database", "ready")
        self._wait("web", self.serves_pages)
        self.say("web", f"serves {self.url}")
        self.supervisor.start(line for line in lines if line.name in SECOND)
        self._wait("worker", lambda: self.has_worker_since(began))
        others = (line for line in lines if line.name not in FIRST | SECOND)
        self.supervisor.start(line for line in others if simulator or line.name != "simulator")

    def lines(self) -> list[procfile.Line]:
        """Flower lives on events, which not every broker carries."""
        lines = [*procfile.read(ROOT / "Procfile"), *procfile.read(ROOT / "Procfile.demo")]
        if broker_of(self.environment["CELERY_BROKER_URL"]).has_events:
            return lines
        self.own["FLOWER_URL"] = self.environment["FLOWER_URL"] = ""
        return [line for line in lines if line.name != "flower"]

    def watch(self) -> None:
        """Start again what dies, until somebody asks to stop."""
        while not self.supervisor.stop_requests:
            for name, server in self.servers.started.items():
                if not server.is_running:
                    self._start_again(name, server)
            self.supervisor.restart_crashed()
            time.sleep(0.2)

    def stop(self) -> None:
        """Everything in its order, the servers last. The second time there is nothing left to do."""
        self.supervisor.stop()
        self.servers.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}/"

    def settings(self, port: int) -> dict[str, str]:
        """What the processes find in their environment, beside the servers' addresses."""
        web, flower, moto, sandbox, mail = free_ports(port, FLOWER_PORT, MOTO_PORT, SANDBOX_PORT, MAIL_PORT)
        third_parties = f"http://127.0.0.1:{sandbox}"
        return {
            "DEBUG": "1",
            "SANDBOX": "1",
            "SECRET_KEY": self.secret("django"),
            "ADMIN_PASSWORD": self.secret("admin"),
            "PORT": str(web),
            "SITE_URL": f"http://127.0.0.1:{web}",
            "SANDBOX_URL": third_parties,
            "SANDBOX_PORT": str(sandbox),
            "SANDBOX_STATE": str(self.folder / "sandbox" / "state.json"),
            "WEBHOOKS_URL": f"http://127.0.0.1:{web}/webhooks/stripe/",
            "STRIPE_API_KEY": "sk_test_nightshift",
            "STRIPE_API_BASE": third_parties,
            "STRIPE_WEBHOOK_SECRET": f"whsec_{self.secret('stripe')}",
            "SUPPLIER_API_BASE": f"{third_parties}/supplier",
            "SUPPLIER_API_KEY": "supplier-test-key",
            "MAIL_PORT": str(mail),
            "EMAIL_URL": f"smtp://127.0.0.1:{mail}",
            "MOTO_PORT": str(moto),
            "MOTO_FOLDER": str(self.folder / "s3"),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto}",
            "AWS_ACCESS_KEY_ID": "nightshift",
            "AWS_SECRET_ACCESS_KEY": "nightshift",
            "AWS_REGION": "eu-west-1",
            "AWS_S3_BUCKET": "nightshift",
            "FLOWER_PORT": str(flower),
            "FLOWER_URL": f"http://127.0.0.1:{flower}",
            "FLOWER_DB": str(private_folder(self.folder / "flower") / "state"),
            "FLOWER_BASIC_AUTH": f"admin:{self.secret('flower')}",
        }

    def secret(self, name: str) -> str:
        return kept_secret(name, self.folder / "secrets")

    def run(self, *command: str) -> None:
        """Run one `manage.py` command to its end; what it says goes to the log."""
        log = self.folder / "log" / f"{command[0]}.log"
        log.unlink(missing_ok=True)
        process = spawn([sys.executable, "manage.py", *command], log=log, cwd=ROOT, env=self.environment)
        try:
            self._wait(command[0], lambda: process.poll() is not None)
        finally:
            if process.poll() is None:
                process.kill()
        if process.returncode:
            raise StartFailed(f"manage.py {command[0]} {ending_of(process.returncode)}: {last_line(log)} (see {log})")

    def serves_pages(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}login/", timeout=5) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except OSError:
            return False

    def has_worker_since(self, moment: float) -> bool:
        """A worker writes its row when it has connected to both servers."""
        query = "SELECT 1 FROM jobs_worker WHERE stopped_at IS NULL AND started_at > to_timestamp(%s)"
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(query, [moment]).fetchone() is not None

    def _start_again(self, name: str, server: Server) -> None:
        """More than one try: a PostgreSQL that was killed leaves sessions, which hold its memory for a moment."""
        self.say(name, f"died; starting it again (see {server.log})")
        if server.process:
            kill_orphans(server.process)
        server.kill9()
        self._wait(name, lambda: starts(server), server.log)
        self.say(name, "started again")

    def _wait(self, name: str, condition: Callable[[], bool], log: Path | None = None) -> None:
        """Wait for a part to come up, restarting what crashes meanwhile."""

        def settled() -> bool:
            self.supervisor.restart_crashed()
            return bool(self.supervisor.stop_requests) or condition()

        arrived = wait_for(settled, PATIENCE, every=0.05)
        if self.supervisor.stop_requests:
            raise Interrupted
        if not arrived:
            raise StartFailed(f"{name} did not come up in {PATIENCE} s (see {log or self.supervisor.log(name)})")


def starts(server: Server) -> bool:
    with suppress(ServerError):
        server.start()
    return server.is_running


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
