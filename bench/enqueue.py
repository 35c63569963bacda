"""What it costs the process that asks. Nobody publishes or runs the jobs meanwhile."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

from django.db import connection, transaction

from bench import disk, plain, tasks
from bench.rounds import Sizes, alternate
from bench.sides import BASE, DURABLE, Side, forget_everything, rate_of

THREADS = 8

Rates = list[tuple[float, float]]


def measure(sides: Sequence[Side], sizes: Sizes) -> dict[str, Rates]:
    """For each side its rates, one by one and many together, one pair a round."""
    asked = {side.name: partial(fresh, side.rates, sizes) for side in sides if side.rates}
    return dict(zip(asked, alternate(sizes.enqueue_rounds, list(asked.values())), strict=True))


def fresh(rates: Callable[[int, int], tuple[float, float]], sizes: Sizes) -> tuple[float, float]:
    forget_everything()
    return rates(sizes.enqueued, sizes.enqueued_together)


def by_threads(sizes: Sizes) -> dict[str, list[float]]:
    """As a web server asks: many at once, each for one job. While one waits for the disk, another has the processor."""
    asked = {BASE: plain.nothing.delay, DURABLE: tasks.nothing.delay}
    found = alternate(sizes.enqueue_rounds, [partial(at_once, ask, sizes.enqueued) for ask in asked.values()])
    return dict(zip(asked, found, strict=True))


def at_once(ask: Callable[[], Any], jobs: int) -> float:
    """Jobs a second, of so many from each thread; connections are made before."""
    forget_everything()
    together = Barrier(THREADS + 1, timeout=30)  # one that fails keeps the others from waiting for ever

    def thread() -> None:
        ask()
        together.wait()
        for _ in range(jobs):
            ask()
        connection.close()

    with ThreadPoolExecutor(THREADS) as threads:
        asking = [threads.submit(thread) for _ in range(THREADS)]
        together.wait()
        began = time.perf_counter()
        for each in asking:
            each.result()
        return THREADS * jobs / (time.perf_counter() - began)


def without_waiting_for_the_disk(sizes: Sizes) -> dict[str, list[float]]:
    """What is left of the price of one where a commit costs nothing: on a server's disk, or inside a transaction."""
    found = alternate(sizes.enqueue_rounds, [partial(undisked, sizes.enqueued), partial(inside, sizes.enqueued)])
    return dict(zip(("commits that do not wait for the disk", "inside a transaction"), found, strict=True))


def undisked(jobs: int) -> float:
    with disk.not_waited_for():
        return rate_of(tasks.nothing.delay, jobs)


def inside(jobs: int) -> float:
    with transaction.atomic():
        return rate_of(tasks.nothing.delay, jobs)
