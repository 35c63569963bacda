"""Celery's pool of processes, when a child dies while the broker is away.

Problem. When the worker is connected again it watches all its children anew. One that has died meanwhile and is not
replaced yet has nothing left to watch, and Celery 5.7.0 exits over it: "file descriptor is None". It exits as well
over a child that a job kills before the worker looks at its pool for the first time.

Guarantee. Such a child is passed over. The pool replaces it at its next look, five seconds later at most.
"""

from typing import Any

from celery import bootsteps
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool


class Pool(AsynPool):
    def _track_child_process(self, proc: Any, hub: Any) -> None:
        has_died = getattr(proc, "_sentinel_poll", hub) is None
        if not has_died:
            super()._track_child_process(proc, hub)

    def did_start_ok(self) -> bool:
        """Celery asks once, at the start: a pool has failed to start if none of its children lives."""
        return any(child.exitcode is None for child in self._pool)


class PoolStep(bootsteps.Step):
    """Only says which pool is meant; Celery's own step makes it, when every step is known."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        prefork.TaskPool.Pool = Pool
