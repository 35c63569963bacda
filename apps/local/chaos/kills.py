"""Workers under load, killed one after the other at any moment; then every job is looked for.

Jobs here take no time, so whenever a worker is killed it fetches, claims, ends or acknowledges. As many jobs with a row
wait for it as broker-only ones, which live in the broker alone: those are what a gap between fetching a message and
noting it would lose.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from apps.local.chaos import tasks
from apps.local.chaos.nursery import Nursery
from apps.local.chaos.stage import StageFailed, manage
from apps.local.chaos.world import World
from apps.local.waiting import wait_for

WORKERS = 3
# So many of each kind wait when a worker is killed: nobody is ever without work.
BACKLOG = 1_500
ATOMIC = 25
# Where the broker-only jobs wait, apart from the others.
BROKER_ONLY_QUEUE = "high"
# A worker is killed within this long after its first claim (seconds), in which it serves some twenty batches.
ANY_MOMENT = 0.4
# On two cores that others may use too.
START_SECONDS = 60.0
# The visibility time-out, a few leases, and what is left of the jobs.
DRAIN_SECONDS = 150.0
TELL_EVERY = 20
RAN = "chaos:ran"

CLAIMED = "SELECT count(*) FROM jobs_job JOIN jobs_worker ON jobs_worker.id = worker_id WHERE pid = %s"
HELD = f"{CLAIMED} AND state = 'running'"
ENDS = "SELECT state, count(*) AS jobs, sum(crashes)::int AS crashes FROM jobs_job GROUP BY state ORDER BY state"
NOT_SUCCEEDED = "SELECT id::text, state FROM jobs_job WHERE id = ANY(%s::uuid[]) AND state <> 'succeeded'"
NEVER_RAN = """
    SELECT id::text FROM jobs_job WHERE task = 'chaos.trace' AND state = 'succeeded'
    AND NOT EXISTS (SELECT FROM chaos_trace WHERE job_id = jobs_job.id)
"""
EFFECTS = "SELECT count(*) - count(DISTINCT job_id) AS twice, count(DISTINCT job_id) AS once FROM chaos_effect"


@dataclass
class Kills:
    world: World
    nursery: Nursery
    rng: Random
    started: int = 0
    workers: list[int] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    atomic: list[str] = field(default_factory=list)
    broker_only: set[str] = field(default_factory=set)
    met: list[int] = field(default_factory=list)  # jobs that each held when it was killed

    def carry_out(self, kills: int) -> None:
        for number in range(1, kills + 1):
            self._ask()
            self._start_workers()
            self._kill_at_work(self.workers.pop(0))
            if number % TELL_EVERY == 0:
                self.world.say(f"{number} workers killed, {self.world.live()} live jobs")

    def _ask(self) -> None:
        self.atomic += tasks.effect.delay_many([{}] * ATOMIC)
        self.plain += tasks.trace.delay_many([{}] * max(0, BACKLOG - self.world.live()))
        with self.world.broker() as client:
            waiting = int(client.llen(BROKER_ONLY_QUEUE))
        self.broker_only |= set(tasks.mark.delay_many([{}] * max(0, BACKLOG - waiting), queue=BROKER_ONLY_QUEUE))

    def _start_workers(self) -> None:
        while len(self.workers) < WORKERS:
            self.started += 1
            self.workers.append(self.nursery.start_worker(f"worker-{self.started}"))

    def _kill_at_work(self, worker: int) -> None:
        if not wait_for(lambda: self.world.witness.value(CLAIMED, worker) > 0, START_SECONDS, every=0.05):
            raise StageFailed(f"A worker took no job in {START_SECONDS:.0f} s (see {self.world.fleet.logs})")
        time.sleep(self.rng.uniform(0, ANY_MOMENT))
        # Its pool dies with it, or outlives it for a moment and may end its jobs.
        (os.killpg if self.rng.random() < 0.5 else os.kill)(worker, signal.SIGKILL)
        self.met.append(self.world.witness.value(HELD, worker))

    def audit(self) -> list[str]:
        """What is wrong, once everything has come to an end."""
        self._start_workers()
        at_rest = wait_for(lambda: self.world.live() == 0 and self.world.in_broker() == 0, DRAIN_SECONDS, every=0.5)
        lost = self.world.witness.rows(NOT_SUCCEEDED, self.plain + self.atomic)
        [effects] = self.world.witness.rows(EFFECTS)
        never_ran = self.world.witness.rows(NEVER_RAN)
        wrong = [f"job {row['id']} is {row['state']}" for row in lost]
        wrong += [f"job {row['id']} succeeded, and never ran" for row in never_ran]
        wrong += [f"broker-only job {job_id} never ran" for job_id in self.broker_only - self._ran()]
        if effects != {"twice": 0, "once": len(self.atomic)}:
            wrong.append(f"{len(self.atomic)} atomic jobs had these effects: {effects}")
        return wrong if at_rest else [f"not at rest after {DRAIN_SECONDS:.0f} s", *wrong]

    def _ran(self) -> set[str]:
        with self.world.broker() as client:
            return {member.decode() for member in client.smembers(RAN)}

    def report(self) -> str:
        ends = ", ".join(
            f"{row['jobs']:,} {row['state']} ({row['crashes']:,} crashes counted)"
            for row in self.world.witness.rows(ENDS)
        )
        durable = len(self.plain) + len(self.atomic)
        return (
            f"{len(self.met)} workers killed, {sum(map(bool, self.met))} of them with claimed jobs in hand"
            f" ({sum(self.met):,} in all).\n{durable:,} durable jobs, {len(self.atomic):,} of them atomic: {ends}.\n"
            f"{len(self.broker_only):,} broker-only jobs: {len(self._ran() & self.broker_only):,} ran."
        )

    def stop(self) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGKILL)


def run(kills: int, seed: int, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """Whether nothing was lost. Whatever happens, nothing that it started is left behind."""
    log = folder / "log" / "workers.log"
    log.parent.mkdir(parents=True)
    nursery = Nursery(log)
    began = time.monotonic()
    world = World(folder, environment, lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}"))
    killing = Kills(world, nursery, Random(seed))
    try:
        world.postgres.start()
        world.valkey.start()
        manage(world, "migrate", "--verbosity=0")
        world.witness.prepare()
        world.fleet.add("relay-1", "python", "manage.py", "relay")
        killing.carry_out(kills)
        wrong = killing.audit()
        say("\n".join([killing.report(), *wrong, f"Seed {seed}: {'FAILED' if wrong else 'PASSED'}."]))
    finally:
        killing.stop()
        world.stop()
    if not wrong:
        world.forget()
    return not wrong
