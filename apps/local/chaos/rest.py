"""Bring the system to rest: no more faults, every job to its end, and a canary through each worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from celery import current_app
from django.db import close_old_connections

from apps.local.chaos.attack import Regularly
from apps.local.chaos.audit import Violation
from apps.local.chaos.world import BEATS, QUEUES_OF, WORKERS, World

HURRY_EVERY = 1.0
TELL_EVERY = 5.0
# Of the unacknowledged messages' visibility time-out, and of a worker that is just being started again.
CANARY_SECONDS = 30.0
CANARIES = 6

CANARIES_TAKEN = """
    SELECT DISTINCT name, queue FROM jobs_job JOIN jobs_worker ON jobs_worker.id = worker_id
    WHERE task = 'chaos.canary' AND state = 'succeeded' AND stopped_at IS NULL
"""


@dataclass
class Rest:
    world: World
    seconds: float

    def come_to_rest(self) -> tuple[list[Violation], list[str]]:
        """Returns what was wrong with the jobs that lie an hour ahead, and the workers that take no jobs."""
        self.world.sandbox.clear()
        self.world.fleet.remove(*BEATS)
        self._drain()
        untouched = self._let_go_of_those_ahead()
        close_old_connections()
        silent = self._canaries()
        self._drain()
        return untouched, silent

    def _drain(self) -> None:
        hurry = Regularly(HURRY_EVERY, self.world.hurry)
        tell = Regularly(TELL_EVERY, self._tell)
        self._wait(self._is_quiet, self.seconds, hurry, tell)

    def _is_quiet(self) -> bool:
        return self.world.live() == 0 and self.world.in_broker() == 0

    def _tell(self) -> None:
        self.world.say(f"draining: {self.world.live()} live jobs, {self.world.in_broker()} messages")

    def _let_go_of_those_ahead(self) -> list[Violation]:
        """They must not have been touched; now they become due, and must end like any other."""
        rows = self.world.witness.rows(
            "SELECT id::text, state, token FROM jobs_job WHERE id = ANY(%s::uuid[])", self.world.ahead
        )
        self.world.ahead.clear()
        self.world.hurry()
        return [
            Violation("a job does not start before its time", row["id"], f"it is {row['state']}, token {row['token']}")
            for row in rows
            if (row["state"], row["token"]) != ("queued", 0)
        ]

    def _canaries(self) -> list[str]:
        missing: set[tuple[str, str]] = set()

        def all_sang() -> bool:
            missing.clear()
            missing.update(self._expected() - self._taken())
            return not missing

        send = Regularly(1.0, lambda: send_canaries({queue for _, queue in missing}))
        self._wait(all_sang, CANARY_SECONDS, send)
        return sorted(f"{worker} ({queue})" for worker, queue in missing)

    def _expected(self) -> set[tuple[str, str]]:
        return {(worker, queue) for worker in WORKERS for queue in QUEUES_OF[worker].split(",")}

    def _taken(self) -> set[tuple[str, str]]:
        return {(row["name"].partition("@")[0], row["queue"]) for row in self.world.witness.rows(CANARIES_TAKEN)}

    def _wait(self, condition: Callable[[], bool], seconds: float, *meanwhile: Callable[[], None]) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            self.world.fleet.tend()
            for do in meanwhile:
                do()
            time.sleep(0.2)


def send_canaries(queues: set[str]) -> None:
    """Several to each queue, because its workers share them as chance will have it."""
    for queue in queues:
        current_app.tasks["chaos.canary"].delay_many([{}] * CANARIES, queue=queue)
