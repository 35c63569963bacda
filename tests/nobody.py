"""An address at which nobody answers, whatever else runs on this machine."""

import atexit
import socket

# Taken, and never listened at: who connects is refused at once, and nobody else can take it.
_taken = socket.socket()
_taken.bind(("127.0.0.1", 0))
atexit.register(_taken.close)

NOBODY = f"127.0.0.1:{_taken.getsockname()[1]}"
