"""A cable between two hosts that a test may pull: a proxy that forwards TCP, and on request says nothing at all.

Nobody hears that the other is gone: connections stay open, new ones are never answered, and what was on its way arrives
when the cable is plugged in again.
"""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65_536


class Cable:
    """From a port of its own to that of a server on this machine."""

    def __init__(self, port: int) -> None:
        self.far_end = port
        self.plugged = threading.Event()
        self.plugged.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._start(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def through(self, url: str) -> str:
        """The server's address, as the host at this end of the cable knows it."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    def pull(self) -> None:
        self.plugged.clear()

    def plug_in(self) -> None:
        self.plugged.set()

    def remove(self) -> None:
        self.plug_in()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _start(self, target: object, *ends: socket.socket) -> None:
        threading.Thread(target=target, args=ends, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                self.plugged.wait()
                far = socket.create_connection(("127.0.0.1", self.far_end))
                self._sockets.append(far)
                self._start(self._forward, near, far)
                self._start(self._forward, far, near)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                self.plugged.wait()
                target.sendall(chunk)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
