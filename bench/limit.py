"""The necessary round trips and nothing else: no faster can anything be that gives the same guarantees from Python."""

import time
from uuid import UUID

from django.db import connection

from apps.jobs import ledger
from apps.jobs.relay import Relay
from apps.jobs.transport import Channel
from bench import tasks
from bench.enqueue import forget_jobs
from bench.rounds import Measure, Sizes, alternate
from config.celery import app

# As many as a worker fetches ahead at most.
BATCH = 64


def measure(sizes: Sizes) -> list[Measure]:
    """Each next to itself: nobody else does only this."""
    fetched, ended = alternate(
        sizes.limit_rounds, (fetch_and_acknowledge, sizes.enqueued_together), (claim_and_end, sizes.enqueued_together)
    )
    return [
        Measure("limit: fetch and acknowledge, one process", "jobs/s", fetched, fetched),
        Measure("limit: claim and end in the ledger, one process", "jobs/s", ended, ended),
    ]


def fetch_and_acknowledge(jobs: int) -> float:
    """Messages a second through the transport's claim and its pipeline of acknowledgements, by one process."""
    publish(jobs)
    with app.connection_for_read() as broker:
        channel: Channel = broker.channel()
        tags: list[str] = []
        began = time.perf_counter()
        with app.amqp.Consumer(channel, [app.amqp.queues["default"]], on_message=lambda m: tags.append(m.delivery_tag)):
            for _ in range(0, jobs, BATCH):
                seen = len(tags)
                while len(tags) < min(seen + BATCH, jobs):
                    broker.drain_events(timeout=10)
                for tag in tags[seen:]:
                    channel.basic_ack(tag)  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - began
    forget_jobs()
    return jobs / seconds


def claim_and_end(jobs: int) -> float:
    """Jobs a second through the ledger's two statements, by one process."""
    publish(jobs)
    ids = [UUID(job_id) for job_id in sent()]
    began = time.perf_counter()
    for first in range(0, jobs, BATCH):
        tokens = ledger.claim(dict.fromkeys(ids[first : first + BATCH], 0), None)
        ledger.succeed_many([(job_id, token, 0.0) for job_id, token in tokens.items()])
    seconds = time.perf_counter() - began
    forget_jobs()
    return jobs / seconds


def publish(jobs: int) -> None:
    tasks.nothing.delay_many([{}] * jobs)
    relay = Relay(app)
    while relay.publish_due():
        pass


def sent() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM jobs_job WHERE state = 'sent'")
        return [row[0] for row in cursor.fetchall()]
