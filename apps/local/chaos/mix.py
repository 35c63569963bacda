"""What is asked of the shop: a mix of its own jobs and of jobs that misbehave, each with the end it must come to.

Each function is called in an open transaction and returns the jobs that it recorded there.
"""

from collections.abc import Callable
from random import Random
from uuid import uuid4

from celery import chain, chord
from celery.result import AsyncResult
from django.contrib.auth.models import User

import tasks
from apps.catalog.models import Product
from apps.local.chaos import tasks as chaos
from apps.local.chaos.journal import Promise
from apps.orders.models import Customer
from apps.orders.services import place_order
from tasks import lab

SUCCEEDED, DEAD, CANCELLED = "succeeded", "dead", "cancelled"


def promise(job: AsyncResult, task: str, end: str = SUCCEEDED, result: object = None) -> Promise:
    return Promise(str(job.id), task, end, result)


def nothing(_rng: Random) -> list[Promise]:
    return [promise(lab.lab_nothing.delay(), "lab_nothing")]


def many(rng: Random) -> list[Promise]:
    job_ids = lab.lab_add.delay_many([{"x": x, "y": 1} for x in range(rng.randint(5, 15))])
    return [Promise(job_id, "lab_add", SUCCEEDED, number + 1) for number, job_id in enumerate(job_ids)]


def in_a_moment(rng: Random) -> list[Promise]:
    return [promise(lab.lab_nothing.apply_async(countdown=rng.uniform(0.5, 10)), "lab_nothing, later")]


def flaky(rng: Random) -> list[Promise]:
    return [promise(lab.lab_flaky.delay(failures=rng.randint(1, 2)), "lab_flaky")]


def always_failing(_rng: Random) -> list[Promise]:
    return [promise(lab.lab_flaky.delay(failures=99), "lab_flaky, always", DEAD)]


def failing(_rng: Random) -> list[Promise]:
    return [promise(lab.lab_fail.delay(), "lab_fail", DEAD)]


def secret(rng: Random) -> list[Promise]:
    fails = rng.random() < 0.5
    job = lab.lab_secret.delay(token=f"chaos-secret-{uuid4()}", fail=fails)
    return [promise(job, "lab_secret", DEAD if fails else SUCCEEDED)]


def sleeping(rng: Random) -> list[Promise]:
    return [promise(lab.lab_sleep.delay(seconds=rng.uniform(0.2, 2)), "lab_sleep")]


def poison(rng: Random) -> list[Promise]:
    task = rng.choice([lab.lab_crash, chaos.segfault])
    return [promise(task.delay(), "poison", DEAD)]


def effect(rng: Random) -> list[Promise]:
    return [promise(chaos.effect.delay(seconds=rng.choice([0, 0, 0.5, 1.5, 3])), "effect")]


def trace(rng: Random) -> list[Promise]:
    return [promise(chaos.trace.delay(seconds=rng.choice([0, 0, 0.5, 1.5])), "trace")]


def slow_token(rng: Random) -> list[Promise]:
    return [promise(chaos.token.delay(seconds=rng.choice([0, 0.5, 1.5, 3])), "token")]


def sums_in_a_chain(rng: Random) -> list[Promise]:
    start = rng.randint(1, 100)
    last = chain(lab.lab_add.s(start, 1), lab.lab_add.s(2), lab.lab_add.s(3)).apply_async()
    sums = [start + 6, start + 3, start + 1]
    return [promise(job, "chain", result=total) for job, total in zip(_lineage(last), sums, strict=True)]


def _lineage(job: AsyncResult | None) -> list[AsyncResult]:
    return [] if job is None else [job, *_lineage(job.parent)]


def sum_by_a_chord(rng: Random) -> list[Promise]:
    numbers = [rng.randint(1, 100) for _ in range(rng.randint(2, 5))]
    body = chord([lab.lab_add.s(number, 0) for number in numbers])(lab.lab_total.s())
    parts = zip(body.parent.results, numbers, strict=True)
    return [
        promise(body, "chord", result=sum(numbers)),
        *(promise(part, "chord part", result=number) for part, number in parts),
    ]


def charge(rng: Random) -> list[Promise]:
    """A tenth of the customers' cards decline."""
    name = "bert" if rng.random() < 0.1 else rng.choice(["ada", "cleo"])
    order = place_order(Customer.objects.get(user__username=name), {"NS-0001": rng.randint(1, 5)}, str(uuid4()))
    job = tasks.charge_customer.delay(order_id=order.pk)
    return [promise(job, "charge_customer", DEAD if name == "bert" else SUCCEEDED)]


def sync(rng: Random) -> list[Promise]:
    """A product that already waits for its sync gets no second job: the promise is then about the first."""
    product = Product.objects.order_by("pk")[rng.randrange(Product.objects.count())]
    job = tasks.sync_to_external_api.delay(record_id=product.pk)
    return [promise(job, "sync_to_external_api", DEAD if product.sku.startswith("BAD-") else SUCCEEDED)]


def mail(rng: Random) -> list[Promise]:
    user = User.objects.get(username=rng.choice(["ada", "bert", "cleo"]))
    return [promise(tasks.send_email.delay(user_id=user.pk, template="welcome"), "send_email")]


# How often of a hundred.
SHARES: dict[Callable[[Random], list[Promise]], int] = {
    nothing: 10,
    many: 3,
    in_a_moment: 6,
    flaky: 6,
    always_failing: 2,
    failing: 3,
    secret: 3,
    sleeping: 6,
    poison: 1,
    effect: 14,
    trace: 8,
    slow_token: 10,
    sums_in_a_chain: 4,
    sum_by_a_chord: 4,
    charge: 8,
    sync: 7,
    mail: 5,
}


def draw(rng: Random) -> list[Promise]:
    [wish] = rng.choices(list(SHARES), list(SHARES.values()))
    return wish(rng)
