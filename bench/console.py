"""What an operator waits for: the console's pages, over a ledger of a million ended jobs and 100,000 dead letters."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client

from apps.jobs.dashboard import snapshot
from apps.jobs.health import probes
from apps.jobs.metrics.counts import BOUNDS
from apps.jobs.models import DeadLetter, Job
from apps.jobs.paging import JobPaginator
from bench.rounds import Sizes

# Milliseconds, within which a page is there before a person thinks of waiting.
LIMIT = 200.0
# … and a load balancer before it gives up on one of many that ask every second.
HEALTH_LIMIT = 20.0
HOST = "localhost"

# One every half second, so that a million cover six days; some of each end, and a few thousand live ones.
JOBS = """
    INSERT INTO jobs_job (
        id, task, args, kwargs, options, queue, state, attempts, token, run_at, created_at, sent_at, started_at,
        finished_at, errors, parent_id)
    SELECT
        uuidv7(at - now()), (ARRAY['tasks.place_order', 'tasks.charge_customer', 'tasks.send_reminder'])[1 + mod(n, 3)],
        '[]', jsonb_build_object('order_id', n, 'note', md5(n::text)), '{"headers": {"request_id": "5c1e0d"}}',
        (ARRAY['default', 'io', 'low'])[1 + mod(n, 3)], ended, 1, 1, at, at, at + interval '2 ms', at + interval '5 ms',
        at + interval '25 ms',
        CASE ended WHEN 'dead' THEN jsonb_build_array(jsonb_build_object(
            'at', at, 'kind', 'permanent', 'exception', 'ValueError', 'message', 'order ' || n || ' has no address',
            'traceback', repeat('  File "orders/services.py", line 7, in place', 30))) ELSE '[]' END,
        CASE WHEN mod(n, 10) = 0 THEN uuidv7() END
    FROM generate_series(1, %s) AS n,
        LATERAL (SELECT now() - n * interval '0.5 s' AS at) AS time,
        LATERAL (SELECT CASE
            WHEN mod(n, 10) = 0 THEN 'dead' WHEN mod(n, 997) = 0 THEN 'cancelled' ELSE 'succeeded' END AS ended) AS ends
"""
LIVE_JOBS = """
    INSERT INTO jobs_job (id, task, args, kwargs, options, queue, run_at, created_at)
    SELECT uuidv7(), 'tasks.send_reminder', '[]', jsonb_build_object('user_id', n), '{}', 'io',
        now() + n * interval '1 min', now() - n * interval '1 s'
    FROM generate_series(1, %s) AS n
"""
LETTERS = """
    INSERT INTO jobs_deadletter (
        id, job_id, durable, task, args, kwargs, options, queue, kind, exception, message, traceback, fingerprint,
        attempts, created_at, state, reason)
    SELECT uuidv7(), id, true, task, args, kwargs, '{}', queue, 'permanent', errors->0->>'exception',
        errors->0->>'message', errors->0->>'traceback', md5((mod(row_number() OVER (), 400))::text), 1, finished_at,
        'open', ''
    FROM jobs_job WHERE state = 'dead'
"""
# A day of twenty-five tasks that all ran in every minute.
MINUTES = """
    INSERT INTO jobs_taskminute (minute, task, queue, sent, received, started, succeeded, failed, retried, revoked,
        rescued, duplicates, snoozed, wait_seconds, wait_buckets, run_seconds, run_buckets)
    SELECT date_trunc('minute', now()) - minute * interval '1 min', 'tasks.task_' || task, 'io', 9, 9, 9, 8, 1, 0, 0,
        0, 0, 0, 1.0, buckets, 1.0, buckets
    FROM generate_series(0, 1439) AS minute, generate_series(1, 25) AS task,
        LATERAL (SELECT array_fill(1::bigint, ARRAY[%s]) AS buckets) AS histogram
"""
# … of every queue's length, and of the workers' slots.
QUEUE_MINUTES = """
    INSERT INTO jobs_queueminute (minute, queue, waiting, running, oldest)
    SELECT date_trunc('minute', now()) - minute * interval '1 min', queue, 9, 2, 1.0
    FROM generate_series(0, 1439) AS minute, unnest(ARRAY['high', 'default', 'low', 'io']) AS queue
"""
FLEET_MINUTES = """
    INSERT INTO jobs_fleetminute (minute, busy, size)
    SELECT date_trunc('minute', now()) - minute * interval '1 min', 30, 60 FROM generate_series(0, 1439) AS minute
"""
TABLES = ("jobs_job", "jobs_deadletter", "jobs_taskminute", "jobs_queueminute", "jobs_fleetminute")


@dataclass(frozen=True)
class Page:
    """One line of the table: milliseconds, one figure a round."""

    name: str
    took: Sequence[float]

    @property
    def limit(self) -> float:
        return HEALTH_LIMIT if self.name.startswith("health") else LIMIT

    @property
    def is_met(self) -> bool:
        return median(self.took) < self.limit


def measure(sizes: Sizes) -> list[Page]:
    """One request for each page in turns; the first round, in which templates are read, is not counted."""
    logging.disable(logging.INFO)  # a line a request would stand between the figures
    call_command("migrate", verbosity=0)
    fill(sizes.console_jobs)
    client = Client()
    client.force_login(User.objects.create_superuser("bench"))
    pages = addresses()
    rounds = [[milliseconds(client, address) for address in pages.values()] for _ in range(1 + sizes.console_rounds)]
    return [Page(name, took) for name, took in zip(pages, zip(*rounds[1:], strict=True), strict=True)]


def fill(jobs: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(TABLES)}")
        cursor.execute(JOBS, [jobs])
        cursor.execute(LIVE_JOBS, [jobs // 200])
        cursor.execute(LETTERS)
        cursor.execute(MINUTES, [len(BOUNDS) + 1])
        cursor.execute(QUEUE_MINUTES)
        cursor.execute(FLEET_MINUTES)
        for table in TABLES:
            cursor.execute(f"VACUUM ANALYZE {table}")


def addresses() -> dict[str, str]:
    job, letter = Job.objects.filter(state="dead").latest("created_at"), DeadLetter.objects.earliest("created_at")
    return {
        "dashboard, the last hour": "/jobs/",
        "dashboard, the last day": "/jobs/?over=day",
        "dashboard, the last day as JSON": "/jobs/?over=day&format=json",
        **of_jobs("/admin/jobs/job/", job),
        **of_letters("/admin/jobs/deadletter/", letter),
        "queues": "/admin/jobs/queuepause/",
        "workers": "/admin/jobs/worker/",
        "schedules": "/admin/django_celery_beat/periodictask/",
        "health, ready": "/health/ready",
        "health, workers": "/health/workers",
        "metrics": "/metrics",
    }


def of_jobs(jobs: str, job: Job) -> dict[str, str]:
    return {
        "jobs": jobs,
        "jobs, the last page": f"{jobs}?p={JobPaginator(Job.objects.order_by('-created_at'), 50).num_pages}",
        "jobs, the oldest first": f"{jobs}?o=7",
        "jobs, queued": f"{jobs}?state__exact=queued",
        "jobs, dead": f"{jobs}?state__exact=dead",
        "jobs, cancelled": f"{jobs}?state__exact=cancelled",
        "jobs, of one task": f"{jobs}?task=tasks.charge_customer",
        "jobs, of a task that never ran": f"{jobs}?task=tasks.generate_report",
        "jobs, of one queue": f"{jobs}?queue=io",
        "jobs, of a queue that had none": f"{jobs}?queue=high",
        "jobs, of one day": f"{jobs}?since=2000-01-01T00:00&until={job.created_at:%Y-%m-%dT%H:%M}",
        "jobs, by id": f"{jobs}?q={job.pk}",
        "jobs, by a task's name": f"{jobs}?q=charge_customer",
        "jobs, by an argument": f"{jobs}?q=nowhere-to-be-found",
        "jobs, by an error": f"{jobs}?q=has+no+address",
        "jobs, dead, by an error": f"{jobs}?state__exact=dead&q=nowhere-to-be-found",
        "job": f"{jobs}{job.pk}/change/",
    }


def of_letters(letters: str, letter: DeadLetter) -> dict[str, str]:
    return {
        "dead letters": letters,
        "dead letters, the oldest first": f"{letters}?o=5",
        "dead letters, open": f"{letters}?state__exact=open",
        "dead letters, discarded": f"{letters}?state__exact=discarded",
        "dead letters, of one kind": f"{letters}?kind__exact=permanent",
        "dead letters, of a kind that never was": f"{letters}?kind__exact=crashed",
        "dead letters, of one task": f"{letters}?task=tasks.charge_customer",
        "dead letters, of a task without any": f"{letters}?task=tasks.generate_report",
        "dead letters, of one queue": f"{letters}?queue=io",
        "dead letters, of a queue without any": f"{letters}?queue=high",
        "dead letters, of the last hour": f"{letters}?within=1h",
        "dead letters, by id": f"{letters}?q={letter.pk}",
        "dead letters, by fingerprint": f"{letters}?q={letter.fingerprint}",
        "dead letters, by an argument": f"{letters}?q=nowhere-to-be-found",
        "dead letters, by an error": f"{letters}?q=has+no+address",
        "dead letters, by cause": f"{letters}causes/",
        "dead letter": f"{letters}{letter.pk}/change/",
    }


def milliseconds(client: Client, address: str) -> float:
    """Of one request, from Django's first step to its last, of which nothing was kept from the one before."""
    snapshot.forget()
    probes.forget()
    began = time.perf_counter()
    answer = client.get(address, secure=True, headers={"host": HOST})
    took = (time.perf_counter() - began) * 1000
    if answer.status_code != 200 and not address.startswith("/health/"):  # which say 503: nobody works here
        raise RuntimeError(f"{address} answered {answer.status_code}.")
    return took


def table(jobs: int, pages: Sequence[Page]) -> str:
    width = max(len(page.name) for page in pages)
    lines = [line(page, width) for page in pages]
    over = f"{jobs:,} ended jobs and {jobs // 10:,} dead letters"
    return "\n".join([f"Pages over {over}, median of {len(pages[0].took)}:", "", "```text", *lines, "```"])


def line(page: Page, width: int) -> str:
    verdict = "met" if page.is_met else "MISSED"
    return f"{page.name.ljust(width)}  {median(page.took):6.0f} ms  < {page.limit:3.0f} ms  {verdict}"
