"""What it costs the process that asks. Nobody publishes or runs the jobs meanwhile."""

from collections.abc import Callable, Sequence
from functools import partial

from django.db import transaction

from bench import disk, tasks
from bench.rounds import Sizes, alternate
from bench.sides import Side, forget_everything, rate_of

Rates = list[tuple[float, float]]


def measure(sides: Sequence[Side], sizes: Sizes) -> dict[str, Rates]:
    """For each side its rates, one by one and many together, one pair a round."""
    asked = {side.name: partial(fresh, side.rates, sizes) for side in sides if side.rates}
    return dict(zip(asked, alternate(sizes.enqueue_rounds, list(asked.values())), strict=True))


def fresh(rates: Callable[[int, int], tuple[float, float]], sizes: Sizes) -> tuple[float, float]:
    forget_everything()
    return rates(sizes.enqueued, sizes.enqueued_together)


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
