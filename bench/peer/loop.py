"""For systems that are asynchronous: one event loop and its connections for all that a process does."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from psycopg_pool import AsyncConnectionPool

from bench import written

_loop = asyncio.new_event_loop()
_pools: list[AsyncConnectionPool] = []


def run(coroutine: Coroutine[Any, Any, Any]) -> None:
    _loop.run_until_complete(coroutine)


async def write() -> None:
    if not _pools:
        _pools.append(
            AsyncConnectionPool(
                os.environ["BENCH_PEER_DATABASE"], min_size=4, max_size=4, open=False, kwargs={"autocommit": True}
            )
        )
        await _pools[0].open()
    async with _pools[0].connection() as connection:
        await connection.execute(written.WRITE)
