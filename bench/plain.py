"""Plain Celery, as its first steps show it: Redis as the broker and for results, and every default."""

import os

from celery import Celery

from bench import written
from bench.stamps import stamp_now

# Without fixups: a plain application knows no Django.
app = Celery("plain", fixups=set(), set_as_current=False)


@app.add_defaults
def servers() -> dict[str, str]:
    url = os.environ["BENCH_PLAIN_URL"]
    return {"broker_url": url, "result_backend": url}


@app.task(name="plain.nothing")
def nothing() -> None:
    pass


@app.task(name="plain.write")
def write() -> None:
    written.write()


@app.task(name="plain.stamp")
def stamp() -> None:
    stamp_now()
