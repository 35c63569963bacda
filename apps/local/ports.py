"""Free TCP ports on the loopback interface."""

import socket
from collections.abc import Collection

# A person who runs several projects has the first few ports busy; past twenty any port is as good as the next.
STEPS = 20


def is_free(port: int) -> bool:
    if not 0 < port < 65_536:
        return False
    with socket.socket() as probe:
        # Without this a port whose last connection closed a minute ago counts as busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not is_listening(port)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_port(preferred: int, given_away: Collection[int] = ()) -> int:
    """The preferred port, or the next free one, or any. A port that is given away may be listened at only later."""
    candidates = (port for port in range(preferred, preferred + STEPS) if port not in given_away)
    return next((port for port in candidates if is_free(port)), 0) or any_port()


def free_ports(*preferred: int) -> list[int]:
    """One for each, and no two the same."""
    ports: list[int] = []
    for port in preferred:
        ports.append(free_port(port, ports))
    return ports
