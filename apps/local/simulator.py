"""The demo's customers and shopkeepers: orders keep coming, and now and then a third party has a bad minute.

It asks for work as the pages do, a thing and its job in one transaction, and at a rate that two cores bear.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta

from django.contrib.auth.models import User
from django.db import transaction

import tasks
from apps.catalog.models import Product
from apps.local.places import ROOT
from apps.orders.models import Customer
from apps.orders.services import place_order
from apps.orders.views import start_charge
from apps.reports.models import Report
from apps.sandbox.client import Sandbox
from apps.uploads.files import store
from apps.uploads.models import Upload
from apps.uploads.views import start as start_upload

# Most people pay, and most files are in order; the rest keeps the dead letters interesting.
BUYERS = {"ada": 12, "cleo": 6, "bert": 1}
FILES = {"products-small.csv": 6, "picture.jpg": 6, "picture.png": 4, "products-wrong-header.csv": 1, "corrupt.jpg": 1}

# What each party does in its bad minute: who, how, and for what share of the requests.
TROUBLES = (
    ("stripe", "error", 0.5),
    ("stripe", "error_after", 0.3),
    ("stripe", "cut", 0.3),
    ("supplier", "error", 0.7),
    ("supplier", "rate_limit", 0.7),
    ("mail", "error", 0.7),
)
TROUBLE_SECONDS = 15


@dataclass
class Habit:
    """Something that happens every so many seconds on average, at random as in life."""

    what: Callable[[random.Random], str]
    every: float
    due: float = field(default=0.0)

    def plan(self, now: float, rng: random.Random) -> None:
        self.due = now + rng.expovariate(1 / self.every)


class Simulator:
    def __init__(self, sandbox: Sandbox, rng: random.Random, now: float) -> None:
        self.sandbox = sandbox
        self.rng = rng
        self.habits = [
            Habit(place_an_order, every=2),
            Habit(push_a_product, every=12),
            Habit(remind_somebody, every=20),
            Habit(upload_a_file, every=40),
            Habit(ask_for_a_report, every=60),
            Habit(self.make_trouble, every=75),
        ]
        for habit in self.habits:
            habit.plan(now, rng)

    def run_once(self, now: float) -> list[str]:
        """Do what is due; returns what was done, in words."""
        due = [habit for habit in self.habits if habit.due <= now]
        for habit in due:
            habit.plan(now, self.rng)
        return [habit.what(self.rng) for habit in due]

    def make_trouble(self, rng: random.Random) -> str:
        party, mode, rate = rng.choice(TROUBLES)
        self.sandbox.fault(party, mode, rate=rate, seconds=TROUBLE_SECONDS)
        return f"{party} has {TROUBLE_SECONDS} bad seconds: {mode}, {rate:.0%} of the requests"


@transaction.atomic
def place_an_order(rng: random.Random) -> str:
    buyer = Customer.objects.get(user__username=draw(BUYERS, rng))
    products = rng.sample(list(Product.objects.filter(active=True, currency="eur")[:50]), k=rng.randint(1, 3))
    order = place_order(buyer, {product.sku: rng.randint(1, 3) for product in products})
    start_charge(order.pk)
    return f"{buyer.user.username} ordered {order.number}"


def push_a_product(rng: random.Random) -> str:
    product = rng.choice(list(Product.objects.filter(active=True)[:50]))
    tasks.sync_to_external_api.delay(record_id=product.pk)
    return f"{product.sku} goes to the supplier"


def remind_somebody(rng: random.Random) -> str:
    user = User.objects.get(username=draw(BUYERS, rng))
    tasks.send_reminder.apply_async(kwargs={"user_id": user.pk}, countdown=15)
    return f"{user.username} will be reminded in 15 s"


def upload_a_file(rng: random.Random) -> str:
    name = draw(FILES, rng)
    kind = Upload.Kind.CSV if name.endswith(".csv") else Upload.Kind.PICTURE
    with (ROOT / "samples" / name).open("rb") as content:
        start_upload(store(User.objects.get(username="ada"), kind, name, content))
    return f"ada uploaded {name}"


@transaction.atomic
def ask_for_a_report(rng: random.Random) -> str:
    today = date.today()  # noqa: DTZ011 - any day will do
    report = Report.objects.create(
        owner=User.objects.get(username="ada"), start=today - timedelta(days=rng.randint(7, 60)), end=today
    )
    report.job_id = tasks.generate_report.delay(report_id=report.pk).id
    report.save(update_fields=["job_id"])
    return f"ada asked for {report}"


def draw(weights: dict[str, int], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
