"""The network switched off but for this machine, so that no test can depend on, or bother, anybody else."""

import ipaddress
import socket
from typing import Any


class NetworkIsOff(OSError):
    """A test tried to reach another machine."""


def is_local(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost", "testserver"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback or str(host) == "0.0.0.0"  # noqa: S104 - a name, not a bind
    except ValueError:
        return False


def allow_loopback_only() -> None:
    """For the whole process; there is no way back, and no test should want one."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise NetworkIsOff(f"This test tried to connect to {address[0]}; only this machine is allowed.")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise NetworkIsOff(f"This test asked for the address of {host}; only this machine is allowed.")
        return look_up(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_look_up
