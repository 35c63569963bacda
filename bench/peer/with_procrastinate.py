import os

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from bench.stamps import stamp_now

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_PEER_DATABASE"]))


@app.task(name="nothing")
def nothing() -> None:
    pass


@app.task(name="stamp")
def stamp() -> None:
    stamp_now()


def enqueue(jobs: int) -> None:
    with app.replace_connector(SyncPsycopgConnector(conninfo=os.environ["BENCH_PEER_DATABASE"])) as sync, sync.open():
        sync.tasks["stamp"].defer()
        sync.tasks["nothing"].batch_defer(*[{}] * jobs)
        sync.tasks["stamp"].defer()
