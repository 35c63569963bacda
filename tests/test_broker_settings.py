"""From a broker's URL to its options: what is safe is taken, and the rest refused with a sentence."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.broker import GIVEN_UP, broker_of
from config.queues import task_queues

LEDGER = {"USER": "night", "PASSWORD": "p@ss/word", "HOST": "db", "PORT": 5433, "NAME": "shop"}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://127.0.0.1/0", "redis"),
        ("rediss://127.0.0.1/0", "redis"),
        ("amqp://guest:guest@127.0.0.1//", "rabbitmq"),
        ("amqps://127.0.0.1//", "rabbitmq"),
        ("sqs://", "sqs"),
        ("pgmq://u:p@127.0.0.1/shop", "postgresql"),
    ],
)
def test_each_known_broker_is_told_by_its_url(url: str, kind: str) -> None:
    assert broker_of(url).kind == kind


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory://", "one process"),
        ("filesystem://", "no acknowledgements"),
        ("sqla+postgresql://db/shop", "use pgmq://"),
        ("zookeeper://db", "does not know 'zookeeper'"),
        ("127.0.0.1:6379", "does not know"),
        ("rediss://127.0.0.1/0?ssl_cert_reqs=none", "certificate"),
        ("rediss://127.0.0.1/0?ssl_cert_reqs=CERT_OPTIONAL", "certificate"),
        ("sentinel://127.0.0.1:26379", "BROKER_SENTINEL_MASTER"),
    ],
)
def test_what_is_unknown_or_unsafe_is_refused_with_a_sentence(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        broker_of(url)


def test_a_certificate_that_is_checked_is_fine() -> None:
    assert broker_of("rediss://127.0.0.1/0?ssl_cert_reqs=required").kind == "redis"


def test_the_sentinels_learn_which_server_and_which_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SENTINEL_MASTER", "main")
    monkeypatch.setenv("BROKER_SENTINEL_PASSWORD", "secret")
    options = broker_of("sentinel://:redis-password@a:26379;sentinel://b:26379").options
    assert (options["master_name"], options["sentinel_kwargs"]) == ("main", {"password": "secret"})


def test_queues_of_rabbitmq_are_replicated_bounded_and_have_an_end() -> None:
    [queue, *_] = task_queues(broker_of("amqp://127.0.0.1//").queue_arguments)
    declared = queue.as_dict(recurse=True)
    assert declared["queue_arguments"]["x-queue-type"] == "quorum"
    assert declared["queue_arguments"]["x-delivery-limit"] == 20
    assert declared["queue_arguments"]["x-dead-letter-routing-key"] == GIVEN_UP
    assert declared["exchange"]["type"] == "direct"


def test_a_broker_without_fan_out_has_no_events_and_no_remote_control() -> None:
    assert broker_of("redis://127.0.0.1/0").has_events
    assert not broker_of("sqs://").has_events
    assert not broker_of("pgmq://u:p@127.0.0.1/shop").has_events


def test_pgmq_alone_means_the_ledgers_own_database() -> None:
    assert broker_of("pgmq://", LEDGER).url == "pgmq://night:p%40ss%2Fword@db:5433/shop"
