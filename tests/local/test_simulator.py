import random
from collections import Counter
from functools import partial

import pytest

from apps.jobs.models import Job
from apps.local.simulator import Simulator, place_an_order
from apps.orders import seed
from apps.orders.models import Order


class Quiet:
    """A sandbox that notes what it is asked for."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str, float]] = []

    def fault(self, party: str, mode: str, **how: float) -> None:
        self.faults.append((party, mode, how["seconds"]))


def tick_off(done: Counter[float], every: float, _: random.Random) -> str:
    done[every] += 1
    return ""


@pytest.mark.django_db
def test_an_order_comes_with_the_job_that_charges_it() -> None:
    seed.seed()
    before = Order.objects.count()
    place_an_order(random.Random(1))
    order = Order.objects.order_by("-pk")[0]
    assert Order.objects.count() == before + 1
    assert order.charge_job
    assert Job.objects.get(pk=order.charge_job).kwargs == {"order_id": order.pk}


def test_habits_keep_their_rate_and_trouble_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Quiet()
    simulator = Simulator(sandbox, random.Random(1), now=0)  # type: ignore[arg-type]
    done: Counter[float] = Counter()
    for habit in simulator.habits[:-1]:
        habit.what = partial(tick_off, done, habit.every)
    for tick in range(18_000):
        simulator.run_once(tick / 5)
    assert done[2] == pytest.approx(1800, rel=0.1)
    assert len(sandbox.faults) == pytest.approx(48, rel=0.4)
    assert {seconds for _, _, seconds in sandbox.faults} == {15}
