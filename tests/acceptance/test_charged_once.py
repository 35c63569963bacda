"""A real worker, killed exactly between a call to Stripe and the note of its answer; the sandbox does the counting."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from apps.jobs.models import Job
from apps.orders.models import Order
from apps.orders.services import place_order
from apps.sandbox.client import Sandbox
from tasks.payments import charge_customer
from tests.acceptance.site import Site, eventually
from tests.shop import a_customer, a_product

# What comes right after Stripe has made the payment, and right after it has taken the money.
STEPS = ["_keep_intent_id", "record_success"]


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return tmp_path / "held"


@pytest.fixture
def charging(site: Site, sandbox: Sandbox, held: Path) -> Callable[..., None]:
    """Starts a worker of the queue of charges, in place of the usual one."""

    def start(step: str, without: str = "") -> None:
        site.kill9("worker")
        site.start_worker(
            "till",
            "--queues=io",
            "--include=tests.acceptance.worst_moment",
            concurrency=2,
            STRIPE_API_BASE=sandbox.url,
            WORST_MOMENT_STEP=step,
            WORST_MOMENT_HELD=str(held),
            NIGHTSHIFT_SABOTAGE=without,
        )

    return start


def an_order() -> Order:
    name = f"till-{uuid4().hex[:8]}"
    return place_order(a_customer(name), {a_product(name).sku: 2})


def charged_after(kill: Callable[[], None], held: Path) -> Order:
    """An order whose charge was under way when this struck, and has ended well since."""
    order = an_order()
    result = charge_customer.delay(order_id=order.pk)
    eventually(lambda: held.exists() and held.read_text().endswith("\n"))
    kill()
    eventually(lambda: Job.objects.get(pk=result.id).state == Job.State.SUCCEEDED)
    job = Job.objects.get(pk=result.id)
    assert (job.attempts, job.crashes) == (2, 1)
    return order


def asked(sandbox: Sandbox, what: str) -> int:
    return int(sandbox.counts()["asked"]["stripe"][what])


@pytest.mark.parametrize("step", STEPS)
def test_a_child_killed_between_stripe_and_the_note_charges_once(
    sandbox: Sandbox, charging: Callable[..., None], held: Path, step: str
) -> None:
    charging(step)
    order = charged_after(lambda: os.kill(int(held.read_text()), signal.SIGKILL), held)
    assert len(sandbox.charges(order.pk)) == 1
    assert asked(sandbox, "payment_intents.confirm") == 1


def test_a_worker_killed_with_all_its_children_just_there_charges_once(
    site: Site, sandbox: Sandbox, charging: Callable[..., None], held: Path
) -> None:
    charging("record_success")

    def kill_and_start_the_next() -> None:
        site.kill9("till")
        site.start_worker("next-till", "--queues=io", concurrency=2, STRIPE_API_BASE=sandbox.url)

    order = charged_after(kill_and_start_the_next, held)
    assert len(sandbox.charges(order.pk)) == 1
    assert asked(sandbox, "payment_intents.confirm") == 1


@pytest.mark.parametrize("without", ["", "claim"], ids=["whole", "without the claim"])
def test_twenty_messages_of_one_charge_at_eight_processes_charge_once(
    site: Site, sandbox: Sandbox, without: str
) -> None:
    """The claim drops nineteen. Were it not there, Stripe would be asked by all of them, with one key."""
    site.kill9("worker")
    order = an_order()
    result = charge_customer.delay(order_id=order.pk)
    eventually(lambda: Job.objects.get(pk=result.id).state == Job.State.SENT)
    deliver_again(site, times=19)
    options = ("--queues=io", "--include=tests.acceptance.worst_moment")
    for name in ("till-1", "till-2"):
        site.start_worker(name, *options, concurrency=4, STRIPE_API_BASE=sandbox.url, NIGHTSHIFT_SABOTAGE=without)
    eventually(lambda: Job.objects.get(pk=result.id).state == Job.State.SUCCEEDED and site.is_idle())
    assert (Job.objects.get(pk=result.id).attempts > 1) == bool(without)
    assert len(sandbox.charges(order.pk)) == 1


def deliver_again(site: Site, times: int) -> None:
    """The message that waits in the queue of charges, as so many more, each sent by itself."""
    with site.valkey.client() as client:
        [item] = client.lrange("io", 0, -1)
        message = json.loads(item)
        for _ in range(times):
            message["properties"]["delivery_tag"] = str(uuid4())
            client.lpush("io", json.dumps(message))


def test_a_key_for_each_attempt_would_charge_twice(sandbox: Sandbox, charging: Callable[..., None], held: Path) -> None:
    """The usual code, at the same moment: it shows that the tests above would tell."""
    charging("record_success", without="idempotency")
    order = charged_after(lambda: os.kill(int(held.read_text()), signal.SIGKILL), held)
    assert len(sandbox.charges(order.pk)) == 2
