"""Bring the system to rest: no more faults, every job to its end, and a canary through each worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from celery import current_app
from django.db import close_old_connections

from apps.local.chaos.attack import Regularly
from apps.local.chaos.audit import Violation
from apps.local.chaos.world import BEATS, QUEUES_OF, WORKERS, World

HURRY_EVERY = 1.0
TELL_EVERY = 5.0
# Half an hour of slow progress is a machine too slow to tell anything, and whoever waits wants to hear so.
LONGEST_DRAIN = 1800.0
# Of the unacknowledged messages' visibility time-out, and of a worker that is just being started again.
CANARY_SECONDS = 30.0
CANARIES = 6

CANARIES_TAKEN = """
    SELECT DISTINCT name, queue FROM jobs_job JOIN jobs_worker ON jobs_worker.id = worker_id
    WHERE task = 'chaos.canary' AND state = 'succeeded' AND stopped_at IS NULL
"""


@dataclass
class Patience:
    """Lasts while less and less is left: it is over after so many seconds without progress, or the longest of all."""

    seconds: float
    longest: float = LONGEST_DRAIN
    least: float = inf
    until: float = inf
    end: float = inf

    def is_over(self, left: int, now: float) -> bool:
        if self.end == inf:
            self.end = now + self.longest
        if left < self.least:
            self.least = left
            self.until = now + self.seconds
        return now > min(self.until, self.end)


@dataclass
class Rest:
    """`seconds`: how long nothing may come to an end before it gives up."""

    world: World
    seconds: float
    violations: list[Violation] = field(default_factory=list)

    def come_to_rest(self) -> tuple[list[Violation], list[str]]:
        """Returns what was wrong with the jobs that lie an hour ahead or with the rest itself, and the workers that
        take no jobs.
        """
        self.world.sandbox.clear()
        self.world.fleet.remove(*BEATS)
        is_quiet = self._drain()
        if not is_quiet:
            self._note_that_nobody_sings()
        self._let_go_of_those_ahead()
        close_old_connections()
        # Behind a backlog every canary would be late, and every worker would look silent.
        silent = self._canaries() if is_quiet else []
        self._drain()
        return self.violations, silent

    def _drain(self) -> bool:
        """Whether everything has come to its end. A slow machine may take its time, as long as it gets on."""
        hurry = Regularly(HURRY_EVERY, self.world.hurry)
        tell = Regularly(TELL_EVERY, self._tell)
        patience = Patience(self.seconds)
        while left := self._left():
            if patience.is_over(left, time.monotonic()):
                return False
            self._tend(hurry, tell)
        return True

    def _left(self) -> int:
        return self.world.live() + self.world.in_broker()

    def _tell(self) -> None:
        self.world.say(f"draining: {self.world.live()} live jobs, {self.world.in_broker()} messages")

    def _note_that_nobody_sings(self) -> None:
        left = f"{self.world.live()} live jobs and {self.world.in_broker()} messages"
        sentence = f"they were not asked, because the system did not come to rest: {left} were left"
        self.violations.append(Violation("every worker takes jobs again", "all workers", sentence))

    def _let_go_of_those_ahead(self) -> None:
        """They must not have been touched; now they become due, and must end like any other."""
        rows = self.world.witness.rows(
            "SELECT id::text, state, token FROM jobs_job WHERE id = ANY(%s::uuid[])", self.world.ahead
        )
        self.world.ahead.clear()
        self.world.hurry()
        self.violations += [
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
        deadline = time.monotonic() + CANARY_SECONDS
        while not all_sang() and time.monotonic() < deadline:
            self._tend(send)
        return sorted(f"{worker} ({queue})" for worker, queue in missing)

    def _expected(self) -> set[tuple[str, str]]:
        return {(worker, queue) for worker in WORKERS for queue in QUEUES_OF[worker].split(",")}

    def _taken(self) -> set[tuple[str, str]]:
        return {(row["name"].partition("@")[0], row["queue"]) for row in self.world.witness.rows(CANARIES_TAKEN)}

    def _tend(self, *meanwhile: Callable[[], None]) -> None:
        self.world.fleet.tend()
        for do in meanwhile:
            do()
        time.sleep(0.2)


def send_canaries(queues: set[str]) -> None:
    """Several to each queue, because its workers share them as chance will have it."""
    for queue in queues:
        current_app.tasks["chaos.canary"].delay_many([{}] * CANARIES, queue=queue)
