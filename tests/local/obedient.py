"""A process for the supervisor to run: `obedient.py NAME FILE [stubborn]`.

It writes its name to the file when it is up, and again when it is asked to stop; a stubborn one does not stop. Like a
Celery worker it has a child, which knows nothing of signals.
"""

import signal
import subprocess
import sys
from pathlib import Path


def main(name: str, file: str, manner: str = "") -> None:
    children: list[subprocess.Popen[bytes]] = []

    def note(what: str) -> None:
        with Path(file).open("a") as notes:
            notes.write(f"{what} {name} {children[0].pid if children else 0}\n")

    def stop(*_: object) -> None:
        note("stopped")
        if manner != "stubborn":
            for child in children:
                child.kill()
            sys.exit(0)

    # Before there is a child, which who is stopped as it starts would leave behind.
    signal.signal(signal.SIGTERM, stop)
    children.append(subprocess.Popen(["sleep", "600"]))
    note("started")
    while True:
        signal.pause()


main(*sys.argv[1:])
