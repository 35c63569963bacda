"""One process at a time, by a file lock: the kernel lets go of it however the process ends."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class AlreadyRunning(Exception):
    """Its message is what the other process has written into the lock file."""


@contextmanager
def exclusively(path: Path) -> Iterator[Callable[[str], None]]:
    """Hold the lock, and yield how to leave a note in it for whoever comes second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(file.read()) from None

        def leave_note(text: str) -> None:
            file.truncate(0)
            file.write(text)
            file.flush()

        leave_note("")
        yield leave_note
