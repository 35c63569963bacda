"""From the broker's URL to what Celery and kombu have to know about it, each option with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from config.env import env

NOTHING: Mapping[str, Any] = MappingProxyType({})

# Where RabbitMQ puts what it has delivered too often; the relay makes dead letters of it.
GIVEN_UP = "nightshift.given-up"

# What a killed worker had fetched but not started comes back after this many seconds. It may be short: no countdown
# waits in the broker, and the claim drops the second message of a job that runs for longer.
VISIBILITY_SECONDS = 60

REFUSED = {
    "memory": "memory:// lives in one process: the relay's messages would never reach a worker.",
    "filesystem": "filesystem:// has no acknowledgements: a killed worker's messages are lost.",
    "sqla": "sqla+… has no acknowledgements and loses messages: use pgmq:// to have PostgreSQL for a broker.",
}


@dataclass(frozen=True)
class Broker:
    """kind: one of "redis", "rabbitmq", "sqs" and "postgresql".

    has_events: whether Celery's events and remote control travel over it, which is what Flower lives on.
    """

    kind: str
    url: str
    options: Mapping[str, Any]
    has_events: bool = True
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)
    # With late acks a prefetched message waits behind the running one; one spare a process keeps it busy.
    prefetch_multiplier: int = 1


def broker_of(url: str, database: Mapping[str, Any] = NOTHING) -> Broker:
    """Raises ImproperlyConfigured for a broker that is unknown or not safe. `database` is the
    ledger's, which `pgmq://` alone stands for.
    """
    if url == "pgmq://":
        url = _in_database(database)
    scheme = urlsplit(url).scheme
    made = BROKERS.get(scheme)
    if made is None:
        raise ImproperlyConfigured(_refusal(scheme))
    return made(url)


def _refusal(scheme: str) -> str:
    why = REFUSED.get(scheme.partition("+")[0], f"Nightshift does not know {scheme!r}.")
    return (
        f"CELERY_BROKER_URL: {why} Known are redis://, rediss://, sentinel://, amqp://, amqps://, sqs:// and pgmq://."
    )


def _redis(url: str) -> Broker:
    if parse_qs(urlsplit(url).query).get("ssl_cert_reqs", ["required"])[0].lower().removeprefix("cert_") != "required":
        raise ImproperlyConfigured(
            "CELERY_BROKER_URL: rediss:// that does not check the server's certificate (ssl_cert_reqs) hides nothing "
            "from who stands in between. Leave it out, or name your own authority with ssl_ca_certs=."
        )
    return Broker("redis", url, redis_options())


def redis_options() -> dict[str, Any]:
    return {
        "visibility_timeout": env.int("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
        # kombu looks for such messages every 10 × 10 polls by default, which adds up to 100 s.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # … under a lock. A worker that asked for it while the broker was frozen gave up, and the broker granted it
        # to nobody when it woke: by default nothing would come back for the 300 s until that lock expires.
        "unacked_mutex_expire": 10,
        # A frozen broker must raise within seconds: without these a publish blocks for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


def _sentinel(url: str) -> Broker:
    """`sentinel://:password@host:26379;sentinel://…`: the URL names the sentinels, and they name the server."""
    master = env.str("BROKER_SENTINEL_MASTER", "")
    if not master:
        raise ImproperlyConfigured("CELERY_BROKER_URL: sentinel:// needs BROKER_SENTINEL_MASTER, the watched name.")
    password = env.str("BROKER_SENTINEL_PASSWORD", "")
    options = {**redis_options(), "master_name": master, "sentinel_kwargs": {"password": password} if password else {}}
    return Broker("redis", url, options)


def _rabbitmq(url: str) -> Broker:
    options = {
        # A publish returns when a majority of the queue's nodes has the message: until then it may be lost.
        "confirm_publish": True,
        "connect_timeout": 2,
    }
    queue_arguments = {
        # Replicated, and written to disk. A classic queue of a node that is gone is gone with its messages.
        "x-queue-type": "quorum",
        # A broker-only job that takes its whole worker down would come back for ever. RabbitMQ 4's own default.
        "x-delivery-limit": 20,
        # Past the limit a message is dropped, unless it has somewhere to go (the default exchange, to this queue) …
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": GIVEN_UP,
        # … where it has arrived before it leaves here. RabbitMQ grants that only with the second of these.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    return Broker("rabbitmq", url, options, queue_arguments=queue_arguments)


def _sqs(url: str) -> Broker:
    fifo = env.bool("BROKER_SQS_FIFO", False)
    options = {
        "region": env.str("AWS_REGION", "eu-west-1"),
        # A stand-in for Amazon, where there is one.
        "endpoint_url": env.str("AWS_ENDPOINT_URL", "") or None,
        # An account's queues share one list of names.
        "queue_name_prefix": env.str("BROKER_SQS_PREFIX", "nightshift-"),
        "fifo": fifo,
        "visibility_timeout": env.int("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
        # Long polling costs fewest calls, and a message that arrives ends it at once. Twenty is Amazon's most.
        "wait_time_seconds": env.int("BROKER_SQS_WAIT_SECONDS", 20),
        # After it, and while every process is busy, kombu pauses: for a whole second by default, which makes a worker
        # with two processes run two jobs a second. Without any pause it would ask an Amazon that is away without end.
        "polling_interval": 0.1,
        # Amazon deletes a message after four days unless it is told otherwise; two weeks is the most.
        "sqs-creation-attributes": {"MessageRetentionPeriod": "1209600"},
        # A frozen Amazon must raise within seconds. Longer than a long poll only where one waits.
        "client-config": {"connect_timeout": 2, "read_timeout": 25, "retries": {"total_max_attempts": 2}},
    }
    # SQS has no fan-out without SNS, and an inspection of the workers would be a queue for each answer.
    return Broker("sqs", url, options, has_events=False)


def _postgresql(url: str) -> Broker:
    options = {
        # Without it, pgmq's client takes DATABASE_URL from the environment, whatever the broker's URL says.
        "conn_string": url.replace("pgmq://", "postgresql://", 1),
        "visibility_timeout": env.int("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
        # A message wakes its worker by NOTIFY, so nobody has to hold a connection in a server-side poll …
        "use_notify": True,
        "wait_time_seconds": 0,
        # … and a lost notification costs a second.
        "polling_interval": 1,
        # The queues are plain tables and functions: `migrate` makes them, without an extension.
        "init_extension": False,
        # A worker needs one to read and one to acknowledge; a hundred greenlets need not have one each.
        "pool_size": 4,
        # A database that is away must raise within seconds.
        "pool_timeout": 5,
    }
    # Each read is a transaction: four messages of it a process instead of one make it ten times as fast. And no events:
    # each answer of a worker to an inspection would be a table.
    return Broker("postgresql", url, options, has_events=False, prefetch_multiplier=4)


def _in_database(database: Mapping[str, Any]) -> str:
    user, password, name = (quote(str(database.get(part, "")), safe="") for part in ("USER", "PASSWORD", "NAME"))
    return f"pgmq://{user}:{password}@{database.get('HOST') or 'localhost'}:{database.get('PORT') or 5432}/{name}"


BROKERS: dict[str, Callable[[str], Broker]] = {
    "redis": _redis,
    "rediss": _redis,
    "sentinel": _sentinel,
    "amqp": _rabbitmq,
    "amqps": _rabbitmq,
    "pyamqp": _rabbitmq,
    "sqs": _sqs,
    "pgmq": _postgresql,
}
