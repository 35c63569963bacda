"""Who asks for jobs: one thread through the ledger, in transactions, and two that shop through the web process."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from uuid import uuid4

import requests
from django.db import InterfaceError, OperationalError, connection, transaction

from apps.accounts.seed import SANDBOX_PASSWORD
from apps.local.chaos.journal import Journal, PlacedOrder, Promise
from apps.local.chaos.mix import draw

LOST = (OperationalError, InterfaceError)
ROLLBACKS = 0.05
# A request to a web process that is being killed again and again gets an answer in the end.
KEEP_ASKING = 90.0
REQUEST_TIMEOUT = 10.0
SHOPPERS = 2
# How much of the jobs comes through the web process.
SHARE_OF_SHOPPERS = 0.12
# Orders a second of each, at least: a strike on requests looks out for one for three seconds.
LEAST_PACE = 0.5


def record(journal: Journal, wish: Callable[[], list[Promise]], *, change_mind: bool = False) -> list[Promise]:
    """Ask for jobs in one transaction, and note what came of it. Returns those that were accepted for certain."""
    promises: list[Promise] = []
    done = False
    try:
        with transaction.atomic():
            promises = wish()
            transaction.set_rollback(change_mind)
            done = True
    except LOST:
        connection.close()
        # Past the last statement only the commit was left, and its answer did not come.
        if done and not change_mind:
            journal.doubt(_new(promises))
        return []
    if change_mind:
        journal.roll_back([promise.job_id for promise in _new(promises)])
        return []
    journal.accept(promises)
    return promises


def _new(promises: list[Promise]) -> list[Promise]:
    """A sync may have been given the job of an earlier transaction, which stays."""
    return [promise for promise in promises if promise.task != "sync_to_external_api"]


@dataclass
class Clerk:
    """Records jobs in transactions of one to four wishes, and rolls some of them back."""

    journal: Journal
    rng: Random

    def work(self) -> None:
        record(self.journal, self._wishes, change_mind=self.rng.random() < ROLLBACKS)

    def _wishes(self) -> list[Promise]:
        return [promise for _ in range(self.rng.randint(1, 4)) for promise in draw(self.rng)]


@dataclass
class Shopper:
    """Places orders over HTTP. Where no answer comes, the same form is sent again, with the same request key."""

    journal: Journal
    rng: Random
    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def sign_in(self) -> None:
        token = self._csrf_token(f"{self.url}/login/")
        form = {"username": "ada", "password": SANDBOX_PASSWORD, "csrfmiddlewaretoken": token}
        answer = self.session.post(f"{self.url}/login/", form, timeout=REQUEST_TIMEOUT, allow_redirects=False)
        if answer.status_code != 302:
            raise RuntimeError(f"The shopper cannot sign in: {answer.status_code}")

    def prepare(self) -> None:
        page = self._get(f"{self.url}/orders/place/")
        found = re.findall(r'<option value="(\d+)"[^>]*>\s*(ada|bert|cleo)', page)
        self.customers = {name: number for number, name in found}

    def work(self) -> None:
        name = "bert" if self.rng.random() < 0.1 else self.rng.choice(["ada", "cleo"])
        key = str(uuid4())
        form = {
            "customer": self.customers[name],
            "request_key": key,
            "sku": "NS-0002",
            "quantity": str(self.rng.randint(1, 5)),
            "csrfmiddlewaretoken": self.session.cookies["csrftoken"],
        }
        give_up = time.monotonic() + KEEP_ASKING
        attempts = 0
        while time.monotonic() < give_up:
            attempts += 1
            order_id = self._place(form)
            if order_id:
                end = "declined" if name == "bert" else "paid"
                self.journal.order(PlacedOrder(key, order_id, end, attempts))
                return
            time.sleep(0.3)

    def _place(self, form: dict[str, str]) -> int | None:
        try:
            answer = self.session.post(
                f"{self.url}/orders/place/", form, timeout=REQUEST_TIMEOUT, allow_redirects=False
            )
        except requests.RequestException:
            return None
        found = re.search(r"/orders/(\d+)/", answer.headers.get("Location", ""))
        return int(found[1]) if found else None

    def _csrf_token(self, url: str) -> str:
        self._get(url)
        return str(self.session.cookies["csrftoken"])

    def _get(self, url: str) -> str:
        answer = self.session.get(url, timeout=REQUEST_TIMEOUT)
        answer.raise_for_status()
        return answer.text


class Producers:
    """All of them, until `jobs` were accepted. They keep to a pace, so that the plan's faults find them at work.

    Shoppers go on until the plan is over as well. Other strikes ask for the jobs that they need, but those on requests
    need theirs, of which a small run would have none left.
    """

    def __init__(self, journal: Journal, seed: int, jobs: int, seconds: float, url: str) -> None:
        self.journal = journal
        self.jobs = jobs
        self.pace = jobs / seconds
        self.clerk = Clerk(journal, Random(seed))
        self.shoppers = [Shopper(journal, Random(seed + number), url) for number in range(1, SHOPPERS + 1)]
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self.plan_is_over = threading.Event()

    def start(self) -> None:
        for shopper in self.shoppers:
            shopper.sign_in()
            shopper.prepare()
        self.began = time.monotonic()
        work = [self._clerk, *(partial(self._shopper, shopper) for shopper in self.shoppers)]
        self.threads = [threading.Thread(target=self._guarded, args=(each,), daemon=True) for each in work]
        for thread in self.threads:
            thread.start()

    @property
    def are_busy(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:
            # A thread's own end would go unnoticed; the run reports it and fails.
            self.errors.append(exc)
            raise
        finally:
            connection.close()

    def _clerk(self) -> None:
        while self._wants_jobs():
            self.clerk.work()
            pace = self.pace * (1 - SHARE_OF_SHOPPERS)
            self._keep_pace(len(self.journal.accepted), pace, self._wants_jobs)

    def _shopper(self, shopper: Shopper) -> None:
        placed = 0
        pace = max(self.pace * SHARE_OF_SHOPPERS / SHOPPERS, LEAST_PACE)
        while self._wants_orders():
            shopper.work()
            placed += 1
            self._keep_pace(placed, pace, self._wants_orders)

    def _wants_jobs(self) -> bool:
        return self.journal.count < self.jobs and not self.errors

    def _wants_orders(self) -> bool:
        return self._wants_jobs() or not (self.plan_is_over.is_set() or self.errors)

    def _keep_pace(self, done: int, pace: float, goes_on: Callable[[], bool]) -> None:
        ahead = done / pace - (time.monotonic() - self.began)
        end = time.monotonic() + ahead
        while time.monotonic() < end and goes_on():
            time.sleep(0.05)
