"""From the broker's URL to what Celery and kombu have to know about it, each option with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from config.env import env

NOTHING: Mapping[str, Any] = MappingProxyType({})

# A host that is cut off hears nothing, not even an error: 40 s, where TCP would wait for a quarter of an hour for an
# answer, and for two hours while there is no question.
NOTICES_A_DEAD_HOST: Mapping[str, int] = MappingProxyType(
    {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 40_000}
)

# Where RabbitMQ puts what it has delivered too often; the relay makes dead letters of it.
GIVEN_UP = "nightshift.given-up"

# A broker-only job that takes its whole worker down would come back for ever. RabbitMQ 4's own default. More than the
# visibility time-outs of a job that runs, or waits behind another, for as long as any may.
DELIVERY_LIMIT = 20

# What a killed worker had fetched and not acknowledged comes back after this many seconds. It may be short: a worker on
# Redis that lives says so (`apps.jobs.transport`), and the claim drops the second message of a durable job in any case.
VISIBILITY_SECONDS = 60

KNOWN = "Known are redis://, rediss://, sentinel://, amqp://, amqps://, sqs:// and pgmq://."
REFUSED = {
    "memory": "memory:// lives in one process: the relay's messages would never reach a worker.",
    "filesystem": "filesystem:// has no acknowledgements: a killed worker's messages are lost.",
    "sqla": "sqla+… has no acknowledgements and loses messages: use pgmq:// to have PostgreSQL for a broker.",
}

TLS_OPTIONS = {"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
BEFORE_THE_OPTIONS = {"host", "port", "dbname", "user", "password"}
LIBPQ_OPTIONS = {option.keyword.decode() for option in Conninfo.get_defaults()} - BEFORE_THE_OPTIONS
# What may stand behind the `?` of a URL. kombu would refuse the rest with a TypeError, and later.
URL_OPTIONS = {
    "rediss": TLS_OPTIONS,
    "sentinel": TLS_OPTIONS,
    "amqp": {"heartbeat"},
    "pyamqp": {"heartbeat"},
    "amqps": {"heartbeat", *TLS_OPTIONS},
    "pgmq": LIBPQ_OPTIONS,
}
# Several addresses are one broker only where it is a cluster. Of two servers of Redis, one would not know the other's
# messages, and a relay may have turned to another of them than a worker.
CLUSTERS = ("sentinel", "amqp", "amqps", "pyamqp")


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
    # The TLS options of the URL once more, for Flower, which looks for them elsewhere.
    tls: Mapping[str, str] = field(default_factory=dict)


def broker_of(url: str, database: Mapping[str, Any] = NOTHING) -> Broker:
    """Raises ImproperlyConfigured for a broker that is unknown or not safe. `database` is the
    ledger's, which `pgmq://` alone stands for.
    """
    url = url.strip()
    if url.lower() == "pgmq://":
        url = _in_database(database)
    addresses = [urlsplit(address) for address in url.split(";")]
    scheme = addresses[0].scheme
    made = BROKERS.get(scheme)
    if made is None or "://" not in url:
        raise _refused(REFUSED.get(scheme.partition("+")[0], f"Nightshift does not know {scheme!r}.") + f" {KNOWN}")
    if len(addresses) > 1 and (scheme not in CLUSTERS or {address.scheme for address in addresses} != {scheme}):
        raise _refused("Several addresses are one broker only where it is a cluster: all sentinel://, or all amqp://.")
    return made(";".join(_checked(address) for address in addresses))


def _refused(why: str) -> ImproperlyConfigured:
    """Never with the URL itself, in which is a password."""
    return ImproperlyConfigured(f"CELERY_BROKER_URL: {why}")


def _checked(address: SplitResult) -> str:
    try:
        address.port  # noqa: B018 - looking at it checks it
    except ValueError as exc:
        raise _refused(
            "The port is no number up to 65535. In a name or a password, signs such as / ? # @ are written as %2F."
        ) from exc
    options = dict(parse_qsl(address.query, keep_blank_values=True))
    unknown = options.keys() - URL_OPTIONS.get(address.scheme, set())
    if unknown:
        raise _refused(f"{address.scheme}:// has no option {', '.join(sorted(unknown))}.")
    query = urlencode(_with_checked_certificate(address.scheme, options))
    return f"{address.scheme}://{address.netloc}{address.path}{query and f'?{query}'}"


def _with_checked_certificate(scheme: str, options: dict[str, str]) -> dict[str, str]:
    """kombu checks none unless it is told to."""
    required = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_") == "required"
    if not required or options.get("ssl_check_hostname", "true").lower() != "true":
        raise _refused(
            "TLS that does not check the server's certificate and its name (ssl_cert_reqs, ssl_check_hostname) hides "
            "nothing from who stands in between. Leave these out, or name your own authority with ssl_ca_certs=."
        )
    uses_tls = scheme in ("rediss", "amqps") or options.keys() & TLS_OPTIONS
    return {**options, "ssl_cert_reqs": "required"} if uses_tls else options


def _tls(url: str) -> dict[str, str]:
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name in TLS_OPTIONS}


def _redis(url: str) -> Broker:
    return Broker("redis", url, redis_options(), tls=_tls(url))


def redis_options() -> dict[str, Any]:
    return {
        "visibility_timeout": env.whole("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
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
        raise _refused("sentinel:// needs BROKER_SENTINEL_MASTER, the watched name.")
    # A frozen sentinel must not hold up the question to the next one: by default it is asked four times, with pauses,
    # which takes 14 s. For its servers these are above.
    password = env.str("BROKER_SENTINEL_PASSWORD", "") or None
    asking = {"socket_timeout": 2, "socket_connect_timeout": 1, "retry": None, "password": password}
    return Broker("redis", url, {**redis_options(), "master_name": master, "sentinel_kwargs": asking}, tls=_tls(url))


def _rabbitmq(url: str) -> Broker:
    options = {
        # A publish returns when a majority of the queue's nodes has the message: until then it may be lost.
        "confirm_publish": True,
        "connect_timeout": 2,
    }
    queue_arguments = {
        # Replicated, and written to disk. A classic queue of a node that is gone is gone with its messages.
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        # Past the limit a message is dropped, unless it has somewhere to go (the default exchange, to this queue) …
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": GIVEN_UP,
        # … where it has arrived before it leaves here. RabbitMQ grants that only with the second of these.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    return Broker("rabbitmq", url, options, queue_arguments=queue_arguments, tls=_tls(url))


def _sqs(url: str) -> Broker:
    fifo = env.flag("BROKER_SQS_FIFO", False)
    options = {
        "region": env.str("AWS_REGION", "eu-west-1"),
        # A stand-in for Amazon, where there is one.
        "endpoint_url": env.address("AWS_ENDPOINT_URL", "") or None,
        # An account's queues share one list of names.
        "queue_name_prefix": env.str("BROKER_SQS_PREFIX", "nightshift-"),
        "fifo": fifo,
        "visibility_timeout": env.whole("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
        # Long polling costs fewest calls, and a message that arrives ends it at once. Twenty is Amazon's most.
        "wait_time_seconds": env.whole("BROKER_SQS_WAIT_SECONDS", 20),
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
        # What every connection is made with (`apps.jobs.brokers.postgresql`).
        "conn_string": _conninfo(urlsplit(url)),
        "visibility_timeout": env.whole("BROKER_VISIBILITY_SECONDS", VISIBILITY_SECONDS),
        # A message wakes its worker by NOTIFY, so nobody has to hold a connection in a server-side poll …
        "use_notify": True,
        "wait_time_seconds": 0,
        # … and a lost notification costs a second.
        "polling_interval": 1,
        # A worker needs one to read and one to acknowledge; a hundred greenlets need not have one each.
        "pool_size": 4,
        # A database that is away must raise within seconds.
        "pool_timeout": 5,
    }
    # Each read is a transaction: four messages of it a process instead of one make it ten times as fast. And no events:
    # each answer of a worker to an inspection would be a table.
    address, _, _ = url.partition("?")  # kombu would take the rest for options of its own
    return Broker("postgresql", address, options, has_events=False, prefetch_multiplier=4)


def _in_database(database: Mapping[str, Any]) -> str:
    """With those of the ledger's options that are libpq's: its certificates and time-outs, above all."""
    user, password, name = (quote(str(database.get(part, "")), safe="") for part in ("USER", "PASSWORD", "NAME"))
    host = str(database.get("HOST") or "localhost")
    host = f"[{host}]" if ":" in host else quote(host, safe="")  # the folder of a socket is a host, too
    options = {name: value for name, value in database.get("OPTIONS", {}).items() if name in LIBPQ_OPTIONS}
    query = urlencode(options)
    return f"pgmq://{user}:{password}@{host}:{database.get('PORT') or 5432}/{name}{query and f'?{query}'}"


def _conninfo(address: SplitResult) -> str:
    parts = {
        "host": address.hostname or "localhost",
        "port": str(address.port or 5432),
        "dbname": address.path.removeprefix("/"),
        "user": address.username,
        "password": address.password,
    }
    named = {name: unquote(value) for name, value in parts.items() if value}
    # A server that does not answer a connection attempt in 5 s is down: psycopg would wait for two minutes.
    options: dict[str, Any] = {"connect_timeout": 5, **NOTICES_A_DEAD_HOST, **dict(parse_qsl(address.query))}
    return make_conninfo(**named, **options)


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
