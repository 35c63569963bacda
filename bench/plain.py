"""Plain Celery, as its first steps show it: Redis as the broker and for results, and every default."""

import os

from celery import Celery

# Without fixups: a plain application knows no Django.
app = Celery("plain", fixups=set(), set_as_current=False)


@app.add_defaults
def servers() -> dict[str, str]:
    url = os.environ["BENCH_PLAIN_URL"]
    return {"broker_url": url, "result_backend": url}


@app.task(name="plain.nothing")
def nothing() -> None:
    """What is enqueued: the default task, whose result is kept."""


@app.task(name="plain.nothing_late", acks_late=True, ignore_result=True)
def nothing_late() -> None:
    """What is drained: acknowledged when it has ended, as Nightshift's are."""


@app.task(name="plain.stamp", acks_late=True, ignore_result=True)
def stamp() -> None:
    from bench.stamps import stamp_now

    stamp_now()
