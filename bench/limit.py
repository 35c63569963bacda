"""The necessary round trips and nothing else: no faster can anything be that gives the same promises from Python.

Loops over redis-py and psycopg, in one process: no task is called, nothing is decoded. Beside them the relay, which is
such a loop itself.
"""

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import redis

from apps.jobs.ids import uuid7
from apps.jobs.relay import Relay
from bench.ours import fill_durable, record
from bench.rounds import Sizes, alternate
from bench.sides import forget_everything, rate_of
from config.celery import app

# As many as a worker fetches ahead at most.
BATCH = 64

ENQUEUE = """
    INSERT INTO jobs_job (id, task, args, kwargs, options, queue)
    SELECT id, 'bench.nothing', '[]', '{}', '{}', 'default' FROM unnest(%s::uuid[]) AS id
"""
FETCH = """
    local items = redis.call('RPOP', KEYS[1], ARGV[1]) or {}
    for _, item in ipairs(items) do
        redis.call('HSET', KEYS[2], cjson.decode(item).properties.delivery_tag, item)
    end
    return items
"""
CLAIM = """
    UPDATE jobs_job SET state = 'running', token = token + 1, lease_until = now() + interval '30 s'
    WHERE id = ANY(%s::uuid[]) AND state = 'sent'
"""
END = """
    UPDATE jobs_job SET state = 'succeeded', finished_at = now(), lease_until = NULL
    WHERE id = ANY(%s::uuid[]) AND state = 'running' AND token = 1
"""


@dataclass(frozen=True)
class Limits:
    """Jobs a second, one figure a round; `relay_cpu` in milliseconds of its processor a job."""

    one: list[float]
    many: list[float]
    durable: list[float]
    broker_only: list[float]
    relay: list[float]
    relay_cpu: list[float]


def measure(sizes: Sizes) -> Limits:
    one, many, durable, broker_only = alternate(
        sizes.enqueue_rounds,
        [
            partial(enqueue, 1, sizes.enqueued),
            partial(enqueue, sizes.enqueued_together, 1),
            partial(drain, sizes.drained, durable=True),
            partial(drain, sizes.drained, durable=False),
        ],
    )
    [relay] = alternate(sizes.enqueue_rounds, [partial(publish, sizes.drained)])
    return Limits(one, many, durable, broker_only, [rate for rate, _ in relay], [cpu for _, cpu in relay])


def enqueue(together: int, times: int) -> float:
    with connect() as session:
        return together * rate_of(lambda: session.execute(ENQUEUE, [[uuid7() for _ in range(together)]]), times)


def drain(jobs: int, *, durable: bool) -> float:
    """Fetch, claim, end and acknowledge, 64 at a time. What is broker-only is fetched and acknowledged."""
    forget_everything()
    fill_durable([("nothing", jobs)])
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as broker, connect() as session:
        session.execute("SET synchronous_commit = off")  # as ours: see docs/decisions/0016
        fetch = broker.register_script(FETCH)
        began = time.perf_counter()
        while messages := [json.loads(item) for item in fetch(["default", "unacked"], [BATCH])]:
            if durable:
                ids = [message["headers"]["id"] for message in messages]
                session.execute(CLAIM, [ids])
                session.execute(END, [ids])
            broker.hdel("unacked", *[message["properties"]["delivery_tag"] for message in messages])
        return jobs / (time.perf_counter() - began)


def publish(jobs: int) -> tuple[float, float]:
    forget_everything()
    record([("nothing", jobs)])
    relay = Relay(app)
    began, before = time.perf_counter(), time.process_time()
    while relay.publish_due():
        pass
    return jobs / (time.perf_counter() - began), (time.process_time() - before) * 1000 / jobs


def connect() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
