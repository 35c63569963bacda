import socket

import pytest

from apps.local.loopback import NetworkIsOff


def test_a_test_cannot_reach_another_machine() -> None:
    with socket.socket() as client, pytest.raises(NetworkIsOff, match=r"192\.0\.2\.1"):
        client.connect(("192.0.2.1", 80))


def test_a_test_cannot_ask_for_another_machines_address() -> None:
    with pytest.raises(NetworkIsOff, match=r"supplier\.example"):
        socket.getaddrinfo("supplier.example", 443)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
