import atexit
import os
from contextlib import ExitStack
from functools import cache

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from bench import written
from bench.stamps import stamp_now

stack = ExitStack()
atexit.register(stack.close)
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_PEER_DATABASE"]))


@app.task(name="nothing")
def nothing() -> None:
    pass


@app.task(name="write")
def write() -> None:
    written.write()


@app.task(name="stamp")
def stamp() -> None:
    stamp_now()


@cache
def producer() -> App:
    """Connected for as long as this process lives."""
    sync = stack.enter_context(app.replace_connector(SyncPsycopgConnector(conninfo=os.environ["BENCH_PEER_DATABASE"])))
    return stack.enter_context(sync.open())


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        producer().tasks[task].defer()


def together(task: str, jobs: int) -> None:
    producer().tasks[task].batch_defer(*[{}] * jobs)
