"""Workers that start in a fraction of a second, so that hundreds can be killed in minutes.

A process of its own has loaded everything and opened nothing; each worker is a fork of it, with a session of its own.
"""

import os
import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from config.celery import app

# They need not know each other, which takes a second at each start.
OPTIONS = ("--loglevel", "WARNING", "--concurrency", "2", "--without-mingle", "--without-gossip", "--without-heartbeat")


class Nursery:
    """Make it before the process opens connections or starts threads: a fork would share them."""

    def __init__(self, log: Path) -> None:
        context = get_context("fork")
        self._orders, theirs = context.Pipe()
        context.Process(target=_serve, args=(self._orders, theirs, log), daemon=True).start()

    def start_worker(self, name: str) -> int:
        """Returns the id of its main process, which leads a group with all of its pool in it."""
        self._orders.send(name)
        pid: int = self._orders.recv()
        return pid


def _serve(others_end: Connection, orders: Connection, log: Path) -> None:
    """Until whoever gives the orders is gone; then no worker stays."""
    others_end.close()
    app.loader.import_default_modules()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    workers: set[int] = set()
    with suppress(EOFError):
        while True:
            name = orders.recv()
            _forget_dead(workers)
            pid = os.fork()
            if pid == 0:
                _become_worker(name, output)
            workers.add(pid)
            orders.send(pid)
    _forget_dead(workers)
    for pid in workers:
        os.killpg(pid, signal.SIGKILL)


def _forget_dead(workers: set[int]) -> None:
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            workers.discard(pid)


def _become_worker(name: str, output: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    app.worker_main(["worker", f"--hostname={name}@kills", *OPTIONS])
    os._exit(0)
