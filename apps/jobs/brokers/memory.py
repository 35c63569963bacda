"""What a broker can tell about itself, for `apps.jobs.broker`."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Protocol

# A message is on its way for milliseconds; a busy machine makes that a second or two.
SETTLED = timedelta(seconds=5)


class Memory(Protocol):
    """settled: for how long a message may be on its way before an empty queue means that it is lost."""

    settled: timedelta

    def remembers(self, database: str) -> bool:
        """Whether it is the broker, with the memory, to which `remember` was said of this run of the database."""
        ...

    def remember(self, database: str) -> None: ...

    def empty(self, queues: Iterable[str]) -> list[str]:
        """Those of the queues in which certainly nothing waits, and of which nothing is unacknowledged."""
        ...

    def wipe(self, queues: Iterable[str], database: str) -> int:
        """Forget every message, and what was to be remembered; returns how many things that were."""
        ...

    def given_up(self) -> Iterator[Any]:
        """The messages that the broker has given up on, to be acknowledged."""
        ...
