"""Redis and Valkey: a server that was wiped or restarted has forgotten messages, and says so by its run id."""

from collections.abc import Iterable, Iterator
from typing import Any

from apps.jobs.brokers.memory import SETTLED

MARK = "nightshift:broker"


class RedisMemory:
    settled = SETTLED

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.client = channel.client

    def remembers(self, database: str) -> bool:
        mark = self.client.get(MARK)
        return mark is not None and _text(mark) == self._runs(database)

    def remember(self, database: str) -> None:
        self.client.set(MARK, self._runs(database))

    def _runs(self, database: str) -> str:
        return f"{self.client.info('server')['run_id']} {database}"

    def empty(self, queues: Iterable[str]) -> list[str]:
        if self.client.hlen(self.channel.unacked_key):
            return []
        return [name for name in queues if self.channel._size(name) == 0]

    def wipe(self, queues: Iterable[str], database: str) -> int:
        keys = int(self.client.dbsize())
        self.client.flushdb()
        return keys

    def given_up(self) -> Iterator[Any]:
        return iter(())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
