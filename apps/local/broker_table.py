"""What is asked of a broker, what holds with which limit, and why some of it is not to be had.

The tests in tests/brokers run on the brokers that have a capability; `manage.py brokers` prints what they found, and
docs/brokers.md shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from config.broker import DELIVERY_LIMIT

EVERY = ("redis", "rabbitmq", "sqs", "sqs-fifo", "postgresql")
TITLES = {
    "redis": "Redis",
    "rabbitmq": "RabbitMQ",
    "sqs": "SQS",
    "sqs-fifo": "SQS, FIFO",
    "postgresql": "PostgreSQL",
}
# The same tests once more, on another way to a broker of the table, or with another kind of pool.
AGAIN = {
    "redis-tls": "redis",
    "redis-sentinel": "redis",
    "redis-threads": "redis",
    "redis-gevent": "redis",
    "redis-solo": "redis",
}


@dataclass(frozen=True)
class Capability:
    """limits: what holds, but only so far. lacks: what does not hold, and why."""

    title: str
    limits: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)

    def brokers(self) -> list[str]:
        return [name for name in EVERY if name not in self.lacks]

    def cell(self, broker: str) -> str:
        if broker in self.lacks:
            return f"no: {self.lacks[broker]}"
        limit = self.limits.get(broker)
        return f"holds; {limit}" if limit else "holds"


def everywhere(limit: str) -> dict[str, str]:
    return dict.fromkeys(EVERY, limit)


SQS_BOTH = ("sqs", "sqs-fifo")
NO_EVENTS = {
    **dict.fromkeys(SQS_BOTH, "SQS has no fan-out; see the console"),
    "postgresql": "each answer would be a table; see the console",
}

CAPABILITIES = {
    "drain": Capability("Jobs run, each once"),
    "retries": Capability("Retries with a delay", everywhere("waits in the ledger")),
    "eta": Capability("A job for later (ETA, countdown)", everywhere("waits in the ledger")),
    "routing": Capability("Routing to queues"),
    "priority": Capability(
        "Priorities within a queue",
        {"redis": "four steps"},
        {
            "rabbitmq": "quorum queues take them and ignore them; use another queue",
            **dict.fromkeys(SQS_BOTH, "SQS has none; use another queue"),
            "postgresql": "pgmq has none; use another queue",
        },
    ),
    "letters": Capability("Dead letters"),
    "duplicates": Capability("A message that comes twice", everywhere("dropped by the claim")),
    "killed": Capability("A killed worker's job", everywhere("again when its lease runs out")),
    "killed_broker_only": Capability(
        "A killed worker's broker-only job",
        {
            "redis": "after the visibility time-out",
            "rabbitmq": "at once",
            **dict.fromkeys(SQS_BOTH, "after the visibility time-out"),
            "postgresql": "after the visibility time-out",
        },
    ),
    "given_up": Capability(
        "A message delivered too often",
        everywhere(f"a dead letter after {DELIVERY_LIMIT}"),
    ),
    "deploy": Capability("A deploy hands running jobs back"),
    "restart": Capability(
        "The broker is restarted",
        {"sqs": "tried with one that forgets all", "sqs-fifo": "tried with one that forgets all"},
    ),
    "forgets": Capability(
        "The broker forgets its messages",
        {
            "redis": "seen at once",
            "rabbitmq": "seen when nobody consumes, else after JOBS_SENT_TIMEOUT_SECONDS",
            **dict.fromkeys(SQS_BOTH, "a deleted queue is seen at once, a purged one after minutes"),
            "postgresql": "seen at once",
        },
    ),
    "unknown": Capability("An unknown task", everywhere("waits for newer code, then a dead letter")),
    "undecodable": Capability("A message that cannot be read", everywhere("a dead letter")),
    "depth": Capability("Depth and age of a queue", everywhere("from the ledger; the broker holds its window of it")),
    "pause": Capability("Pausing a queue", everywhere("by the ledger")),
    "cancel": Capability("Cancelling a running job", everywhere("by the ledger, at a checkpoint")),
    "control": Capability("Celery's inspect and control", lacks=NO_EVENTS),
    "flower": Capability("Flower", lacks=NO_EVENTS),
    "groups": Capability(
        "Order within a group",
        {"sqs-fifo": "with --concurrency=1"},
        {
            "redis": "order is not promised",
            "rabbitmq": "order is not promised",
            "sqs": "needs a FIFO queue",
            "postgresql": "order is not promised",
        },
    ),
}

# What a test of a capability came to: "passed", "failed" or "skipped".
Outcomes = Mapping[tuple[str, str], str]
ALL_PASSED: Outcomes = {(name, broker): "passed" for name, made in CAPABILITIES.items() for broker in made.brokers()}


def markdown(outcomes: Outcomes) -> str:
    header = ["", *TITLES.values()]
    rows = [[made.title, *(cell(name, broker, outcomes) for broker in EVERY)] for name, made in CAPABILITIES.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))


def cell(name: str, broker: str, outcomes: Outcomes) -> str:
    """Never empty: what was not found out is said to be so."""
    made = CAPABILITIES[name]
    if broker in made.lacks or outcomes.get((name, broker)) == "passed":
        return made.cell(broker)
    return "**FAILED**" if outcomes.get((name, broker)) == "failed" else "not run"
