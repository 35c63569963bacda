"""From a broker's URL to its options: what is safe is taken, and the rest refused with a sentence."""

import ssl
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from kombu import Connection
from psycopg.conninfo import conninfo_to_dict

from config.broker import GIVEN_UP, Broker, broker_of
from config.queues import task_queues

LEDGER = {"USER": "night", "PASSWORD": "p@ss w'rd", "HOST": "db", "PORT": 5433, "NAME": "shop"}


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
        ("rediss://127.0.0.1/0?ssl_check_hostname=false", "certificate"),
        ("amqps://127.0.0.1//?ssl_cert_reqs=none", "certificate"),
        ("", "does not know"),
        ("redis:", "does not know"),
        ("redis+socket:///run/redis.sock", "does not know"),
        ("redis://a/0;redis://b/0", "cluster"),
        ("amqp://a//;memory://", "cluster"),
        ("redis://127.0.0.1:99999/0", "port"),
        ("redis://127.0.0.1/0?socket_timeout=60", "no option socket_timeout"),
        ("pgmq://u:p@127.0.0.1/shop?ssl_cert_reqs=required", "no option ssl_cert_reqs"),
        ("pgmq://u:p@127.0.0.1/shop?host=elsewhere", "no option host"),
        ("sentinel://127.0.0.1:26379", "BROKER_SENTINEL_MASTER"),
    ],
)
def test_what_is_unknown_or_unsafe_is_refused_with_a_sentence(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        broker_of(url)


def test_no_refusal_shows_a_password() -> None:
    with pytest.raises(ImproperlyConfigured, match="written as %2F") as refusal:
        broker_of("redis://:hunter2/@127.0.0.1:6379/0")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("url", ["  REDIS://127.0.0.1/0\n", "redis://127.0.0.1/0"])
def test_letters_of_any_size_and_blanks_around_them_are_the_same_broker(url: str) -> None:
    assert broker_of(url).url == "redis://127.0.0.1/0"


def test_kombu_is_told_to_check_the_certificate_which_by_itself_it_does_not() -> None:
    for url in ("rediss://127.0.0.1/0", "amqps://127.0.0.1//?ssl_ca_certs=/etc/ssl/own.pem"):
        broker = broker_of(url)
        assert options_of(broker)["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        assert broker.tls["ssl_cert_reqs"] == "required"
    assert broker.tls["ssl_ca_certs"] == options_of(broker)["ssl_ca_certs"] == "/etc/ssl/own.pem"
    assert not options_of(broker_of("redis://127.0.0.1/0"))


def options_of(broker: Broker) -> Any:
    return Connection(broker.url).ssl


def test_nodes_of_a_cluster_are_one_broker() -> None:
    url = "amqp://u:p%40@a:5672//;amqp://u:p%40@b:5672//"
    assert broker_of(url).url == url


def test_the_sentinels_learn_which_server_and_which_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SENTINEL_MASTER", "main")
    monkeypatch.setenv("BROKER_SENTINEL_PASSWORD", "secret")
    options = broker_of("sentinel://:redis-password@a:26379;sentinel://b:26379").options
    assert (options["master_name"], options["sentinel_kwargs"]["password"]) == ("main", "secret")
    assert options["sentinel_kwargs"]["socket_timeout"], "one that is frozen would hold up the question to the next"
    assert options["sentinel_kwargs"]["retry"] is None, "by default it is asked four times"


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
    assert broker_of("pgmq://", LEDGER).url == "pgmq://night:p%40ss%20w%27rd@db:5433/shop"


@pytest.mark.parametrize("host", ["/run/postgresql", "::1"])
def test_a_database_behind_a_socket_or_an_address_of_the_sixth_version_is_found(host: str) -> None:
    broker = broker_of("pgmq://", {**LEDGER, "HOST": host})
    told = conninfo_to_dict(broker.options["conn_string"])
    assert (told["host"], told["port"], told["password"], told["dbname"]) == (host, "5433", "p@ss w'rd", "shop")
    assert Connection(broker.url).hostname == host
