"""Our own sides of the table, and plain Celery's."""

import sys
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from apps.jobs.relay import Relay
from bench import plain, tasks
from bench.sides import (
    ATOMIC,
    BASE,
    BROKER_ONLY,
    DURABLE,
    KEEPS,
    MAY_LOSE,
    ONCE,
    POOL_SIZE,
    REDELIVERS,
    SOLO,
    UNSENT,
    Side,
    Wish,
    rate_of,
)
from config.celery import app as nightshift_app


def own_sides() -> list[Side]:
    """A relay belongs to what is durable: a worker may hand jobs back, and they have to come again."""
    relay = [sys.executable, "manage.py", "relay"]
    prefork = celery("--concurrency", POOL_SIZE)
    solos = [celery("--pool", "solo", "--hostname", f"solo{n}@bench") for n in (1, 2)]
    bare = [[*worker("bench.plain"), "--concurrency", POOL_SIZE]]
    return [
        Side(BASE, MAY_LOSE, fill_plain, plain_rates, bare, {"DJANGO_SETTINGS_MODULE": ""}),
        Side(DURABLE, KEEPS, fill_durable, durable_rates, [relay, prefork]),
        Side(DURABLE + SOLO, KEEPS, fill_durable, None, [relay, *solos]),
        Side(UNSENT, KEEPS, record, None, [relay, prefork]),
        Side(ATOMIC, ONCE, fill_atomic, None, [relay, prefork]),
        Side(BROKER_ONLY, REDELIVERS, fill_broker_only, broker_only_rates, [prefork], share=2.0),
        Side(BROKER_ONLY + SOLO, REDELIVERS, fill_broker_only, None, solos, share=6.0),
    ]


def celery(*options: str) -> list[str]:
    return [*worker("config"), "--include", "bench.tasks", *options]


def worker(app: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "WARNING"]


def fill_plain(wishes: Sequence[Wish]) -> None:
    publish_directly(plain.app, [(getattr(plain, name), jobs) for name, jobs in wishes])


def publish_directly(app: Any, wishes: Sequence[tuple[Any, int]]) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for task, jobs in wishes:
            for _ in range(jobs):
                task.apply_async(producer=producer)


def fill_durable(wishes: Sequence[Wish]) -> None:
    record(wishes)
    publish()


def record(wishes: Sequence[Wish], kind: str = "") -> None:
    """In one transaction, whose relay sees all of them or none."""
    with transaction.atomic():
        for name, jobs in wishes:
            task = getattr(tasks, name + ("" if name == "stamp" else kind))
            task.delay_many([{}] * jobs)


def fill_atomic(wishes: Sequence[Wish]) -> None:
    record(wishes, "_atomic")
    publish()


def publish() -> None:
    relay = Relay(nightshift_app)
    relay.rescue()  # leaves its mark in the emptied broker: else the side's own relay would send all of it again
    while relay.publish_due():
        pass


def fill_broker_only(wishes: Sequence[Wish]) -> None:
    publish_directly(nightshift_app, [(getattr(tasks, f"{name}_broker_only"), jobs) for name, jobs in wishes])


def plain_rates(one: int, many: int) -> tuple[float, float]:  # noqa: ARG001
    """It knows no other way to ask for many than to ask for one, often."""
    rate = rate_of(plain.nothing.delay, one)
    return rate, rate


def durable_rates(one: int, many: int) -> tuple[float, float]:
    return rates(tasks.nothing, one, many)


def broker_only_rates(one: int, many: int) -> tuple[float, float]:
    return rates(tasks.nothing_broker_only, one, many)


def rates(task: Any, one: int, many: int, **options: Any) -> tuple[float, float]:
    together = rate_of(lambda: task.delay_many([{}] * many, **options), 1)
    return rate_of(lambda: task.apply_async(**options), one), many * together
