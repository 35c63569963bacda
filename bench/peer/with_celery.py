"""Celery as those who want it fast run it: no results, no events, messages fetched ahead."""

import os

from celery import Celery

from bench import written
from bench.stamps import stamp_now

app = Celery("tuned", broker=os.environ["BENCH_PEER_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=64, worker_send_task_events=False)


@app.task
def nothing() -> None:
    pass


@app.task
def write() -> None:
    written.write()


@app.task
def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def one_by_one(task: str, jobs: int) -> None:
    for _ in range(jobs):
        TASKS[task].delay()


def together(task: str, jobs: int) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for _ in range(jobs):
            TASKS[task].apply_async(producer=producer)
