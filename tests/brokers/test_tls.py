"""TLS to a broker: only to the server that is meant, whoever else has a certificate."""

from collections.abc import Callable, Iterator

import pytest
from kombu import Connection

from apps.local.ports import any_port
from apps.local.valkey import IN_MEMORY, ValkeyServer
from config.broker import broker_of
from config.celery import app
from tests.brokers.tls import Authority, TLSEnd

Address = Callable[[str], str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["rediss", "amqps"])
def address_of(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Address]:
    """Where a server shows a certificate for the name that is given. Behind that of `amqps` is no RabbitMQ, which is
    found out later.
    """
    from apps.local.throwaway import FOLDER

    server = ValkeyServer(FOLDER / "tls", password="valkey", settings=IN_MEMORY)
    server.start()
    far_end = server.port if request.param == "rediss" else any_port()
    ends = {name: TLSEnd(far_end, authority.server_context(name)) for name in ("localhost", "elsewhere.example")}
    yield lambda name: f"{request.param}://:valkey@localhost:{ends[name].port}/0"
    for end in ends.values():
        end.close()
    server.stop()


def connect(url: str) -> str:
    """How it ends. Once: kombu would try again."""
    broker = broker_of(url)
    assert app.conf  # which puts our transports in kombu's place
    with Connection(broker.url, transport_options=dict(broker.options)) as connection:
        try:
            connection.transport.establish_connection()
        except connection.connection_errors as exc:
            return f"{type(exc).__name__}: {exc}"
    return "connected"


def test_the_servers_own_certificate_from_a_trusted_authority_is_taken(
    address_of: Address, authority: Authority
) -> None:
    url = f"{address_of('localhost')}?ssl_ca_certs={authority.path}"
    assert "CERTIFICATE" not in connect(url)
    assert connect(url) == "connected" or url.startswith("amqps")


@pytest.mark.parametrize(("name", "trusted"), [("elsewhere.example", True), ("localhost", False)])
def test_anybody_elses_certificate_is_refused(
    address_of: Address, authority: Authority, name: str, trusted: bool
) -> None:
    own = f"?ssl_ca_certs={authority.path}" if trusted else ""
    assert "CERTIFICATE_VERIFY_FAILED" in connect(address_of(name) + own)
