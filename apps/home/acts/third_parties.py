"""Calls to the supplier: when it fails, when it says when to come back, when it is slow, when it counts."""

from datetime import datetime
from itertools import pairwise

from django.contrib.auth.models import User

import tasks
from apps.home.act import Seen, Started, attempts, ids, once_ended, seconds_between
from apps.home.acts.cast import misbehave, products
from apps.jobs.models import Job

FAILURES = 2
TOLD = 3
CALLS = 100
LATENCY = 1.0
# The lab's limit is five a second for all workers together (tasks/lab.py): so many jobs need three seconds at least.
BURST = 20
BURST_SECONDS = 2.5


def sync(_: User) -> Started:
    [product] = products(1)
    return Started(f"Sent {product.name} to the supplier.", ids([tasks.sync_to_external_api.delay(product.pk).id]))


def sync_through_errors(_: User) -> Started:
    [product] = products(1)
    misbehave("supplier", "error", count=FAILURES, matching=product.sku)
    job = tasks.sync_to_external_api.delay(product.pk)
    return Started(f"Sent {product.name} to the supplier, which answers 500 the first {FAILURES} times.", ids([job.id]))


@once_ended
def recovered(jobs: list[Job]) -> Seen:
    [job] = jobs
    failed_at = [datetime.fromisoformat(error["at"]) for error in job.errors]
    waits = [seconds_between(*pair) for pair in pairwise([*failed_at, job.started_at])]
    pauses = " and ".join(f"{wait:.1f} s" for wait in waits) or "no time"
    held = job.state == Job.State.SUCCEEDED and len(waits) == FAILURES
    return Seen(f"It ended as {job.state} after {attempts(job)}, with {pauses} in between.", held)


def sync_when_told(_: User) -> Started:
    [product] = products(1)
    misbehave("supplier", "rate_limit", count=1, retry_after=TOLD, matching=product.sku)
    job = tasks.sync_to_external_api.delay(product.pk)
    return Started(f"Sent {product.name} to the supplier, which answers 429 and “Retry-After: {TOLD}”.", ids([job.id]))


def sync_many_when_told(_: User) -> Started:
    chosen = products(5)
    misbehave("supplier", "rate_limit", seconds=TOLD - 1, retry_after=TOLD, matching="PUT")
    jobs = tasks.sync_to_external_api.delay_many({"record_id": product.pk} for product in chosen)
    return Started(f"Sent {len(chosen)} products to a supplier that says “Retry-After: {TOLD}” to all.", ids(jobs))


@once_ended
def waited_as_told(jobs: list[Job]) -> Seen:
    """All retries are counted, so that none is the proof that waiting was free."""
    shortest = min(seconds_between(job.created_at, job.started_at) for job in jobs)
    retries = sum(job.retries for job in jobs)
    held = shortest >= TOLD and retries == 0 and all(job.state == Job.State.SUCCEEDED for job in jobs)
    return Seen(f"It asked again after {shortest:.1f} s, and that cost {retries or 'no'} retries.", held)


def call(_: User) -> Started:
    jobs = tasks.call_external_api.delay_many({"record_id": product.pk} for product in products(2))
    return Started("Asked for the stock of two products; each worker makes ten such calls a minute.", ids(jobs))


def call_in_a_burst(_: User) -> Started:
    jobs = tasks.lab_limited.delay_many([{}] * BURST)
    return Started(f"Started {BURST} jobs at once that share a limit of five a second for all workers.", ids(jobs))


@once_ended
def kept_to_the_limit(jobs: list[Job]) -> Seen:
    took, retries = _span(jobs), sum(job.retries for job in jobs)
    held = took >= BURST_SECONDS and retries == 0 and all(job.state == Job.State.SUCCEEDED for job in jobs)
    return Seen(f"They were spread over {took:.1f} s; waiting cost {retries or 'no'} retries and held no worker.", held)


def a_hundred_slow_calls(_: User) -> Started:
    misbehave("supplier", "slow", count=CALLS, latency_ms=int(1000 * LATENCY), matching="PUT", seconds=30)
    jobs = tasks.sync_to_external_api.delay_many({"record_id": product.pk} for product in products(CALLS))
    return Started(f"Sent {len(jobs)} products to a supplier that takes {LATENCY:.0f} s for each.", ids(jobs))


@once_ended
def all_at_once(jobs: list[Job]) -> Seen:
    took = _span(jobs)
    held = took < len(jobs) * LATENCY / 4 and all(job.state == Job.State.SUCCEEDED for job in jobs)
    return Seen(f"{len(jobs)} calls of {LATENCY:.0f} s each took {took:.1f} s together.", held)


def slow_calls_by_processes(_: User) -> Started:
    jobs = tasks.lab_sleep.delay_many([{"seconds": 0.5}] * 20, queue="low")
    return Started("Put 20 waits of half a second on the queue low, whose worker has two processes.", ids(jobs))


@once_ended
def one_after_the_other(jobs: list[Job]) -> Seen:
    """Shown for comparison: this is what the green threads of the queue io save."""
    return Seen(f"{len(jobs)} waits took {_span(jobs):.1f} s together.", all(job.state == "succeeded" for job in jobs))


def _span(jobs: list[Job]) -> float:
    """From the first start to the last end, in seconds."""
    started = min(job.started_at for job in jobs if job.started_at)
    return max(seconds_between(started, job.finished_at) for job in jobs)
