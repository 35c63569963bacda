"""One process at a time, by a file lock: the kernel lets go of it however the process ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class AlreadyRunning(Exception):
    """Its message is what the other process has written into the lock file."""


@contextmanager
def exclusively(path: Path) -> Iterator[IO[str]]:
    """Hold the lock, and yield its file to write into for whoever comes second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(file.read()) from None
        file.truncate(0)
        yield file
