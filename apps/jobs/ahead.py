"""How many messages a worker fetches before it has a process for them.

Batches need more than one job at a time; but a job that waits here behind a long one could run elsewhere. So a worker
fetches ahead what its pool does in a moment, judged by how long its last jobs took; where they take long, nothing.

Not guaranteed. A long job that comes among short ones surprises; `apps.jobs.claims` hands back what then waits for it.
"""

import math
from typing import Any

# What is fetched ahead keeps the pool busy for this long (seconds): a few round trips, to the broker and the ledger.
MOMENT = 0.05
# More makes no larger batches within `MOMENT`, and everything that is fetched comes twice after a kill.
MOST = 64
# Of the last two dozen jobs, so that one long job among short ones counts for a while.
WEIGHT = 0.1


class Runtimes:
    """The mean of this worker's last jobs; None before there is one."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def saw(self, seconds: float) -> None:
        self.mean = seconds if self.mean is None else self.mean + WEIGHT * (seconds - self.mean)


runtimes = Runtimes()


class Ahead:
    """Raises and lowers the consumer's prefetch limit, beside Celery's own changes to it."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.qos: Any = None
        self.fetched = 0

    def forget(self) -> None:
        """Something took much longer than expected: fetch nothing ahead until jobs have ended again."""
        runtimes.mean = None
        self.adjust(allowed=False)

    def adjust(self, allowed: bool) -> None:
        if self.qos is not self.consumer.qos:  # after a new connection to the broker
            self.qos, self.fetched = self.consumer.qos, 0
        change = (wanted(self.consumer.pool.num_processes) if allowed else 0) - self.fetched
        if change > 0:
            self.qos.increment_eventually(change)
        elif change < 0:
            self.qos.decrement_eventually(-change)
        self.fetched += change


def wanted(processes: int) -> int:
    """A power of two: some brokers are told of each change in a round trip."""
    if runtimes.mean is None:
        return 0
    jobs = min(MOST, processes * MOMENT / max(runtimes.mean, MOMENT / MOST))
    return 1 << int(math.log2(jobs)) if jobs >= 1 else 0
