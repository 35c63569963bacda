"""Celery's pool of processes: how a job gets to a child, and when the broker or a child is lost, or the worker stopped.

Problem. When the connection is lost, Celery forgets all jobs that no child has reported as begun. But those that were
written to a child run all the same, and nobody hears of their ends. When the worker is connected again it watches all
its children anew. One that has died meanwhile and is not replaced yet has nothing left to watch, and Celery 5.7.0 exits
over it: "file descriptor is None". It exits as well over a child that a job kills before the worker looks at its pool
for the first time. And a child that is told to end waits for up to 30 s until the main process has read all that it
reported, which at a stop under load nobody does any more: that is as long as a platform waits before it kills, and what
still runs is handed back only after it. And between two jobs a child is idle while the main process keeps the books of
the first.

Guarantee. What a child was given stays a job of this pool; what none was given is forgotten, and the worker hands it
back. A child that died meanwhile is passed over. The pool replaces it at its next look, five seconds later at most. A
stop waits for no child once nobody reads. No job that has ended is out of time. A child that has ended a job is given
the next one before anything else is done about the last.
"""

from select import PIPE_BUF
from typing import Any

from billiard import pool
from celery import bootsteps
from celery.concurrency import asynpool, prefork
from celery.concurrency.asynpool import AsynPool
from celery.utils.functional import noop

# More than any child reports in its life; billiard counts in a C int.
EVERYTHING = 2**31 - 1


class ResultHandler(asynpool.ResultHandler):
    def on_stop_not_started(self) -> None:
        """Celery reads until no job is left that it waits for; jobs whose messages it gave back are not among them."""
        super().on_stop_not_started()
        for read in self.on_ready_counters.values():
            read.value = EVERYTHING


class TimeoutHandler(pool.TimeoutHandler):
    def on_hard_timeout(self, job: Any) -> None:
        """The child first. Celery says first what became of the job, and that may wait for a row that the child holds:
        for ever, if only this process would have ended it.

        PostgreSQL lets go of the row when it has ended the child's statement, if there is one under way.
        """
        child, _ = self._process_by_pid(job._worker_pid)
        if child is not None and not job.ready():
            self._trywaitkill(child)
        super().on_hard_timeout(job)

    def _trywaitkill(self, child: Any) -> None:
        """Once. After that its number may be another process's."""
        if child.exitcode is None:
            super()._trywaitkill(child)


class Pool(AsynPool):
    ResultHandler = ResultHandler
    TimeoutHandler = TimeoutHandler
    _quick_put: Any
    on_poll_start: Any

    def _create_write_handlers(self, hub: Any, **options: Any) -> None:
        """Give a job to a free child at once; Celery does so in the loop's next turn.

        A job gets its slot when another one has ended, and before that one's books are kept: its child works meanwhile.
        """
        super()._create_write_handlers(hub, **options)
        put, write_to, look_for_free_ones = self._quick_put, hub.consolidate_callback, self.on_poll_start
        have_waited = False

        def put_now(message: Any) -> None:
            put(message)
            write_in_one(self._cache[message[1][0]])
            free = self._all_inqueues - self._busy_workers - self._active_writes
            if free:
                write_to([free.pop()])

        def look_if_any_wait() -> None:
            """Celery tells the kernel in each turn of the loop, for each child, that there is nothing to be written."""
            nonlocal have_waited
            do_wait = bool(self.outbound_buffer)
            if do_wait or have_waited:
                look_for_free_ones()
            have_waited = do_wait

        self._quick_put, self.on_poll_start = put_now, look_if_any_wait

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        has_died = getattr(proc, "_sentinel_poll", hub) is None
        if not has_died:
            super()._track_child_process(proc, hub)

    def flush(self) -> None:
        """The connection is lost. Celery keeps what is accepted, ends what it has begun to write, and forgets the rest.

        So what a child was given counts as accepted meanwhile. If the child has died, its job waits for another one, or
        did so before. That is asked of the child that it was given to: Celery names the child's replacement instead, if
        its pipe has the same number, but the message went with the old pipe.
        """
        unread = [job for job in self._cache.values() if job._write_to is not None and not job._accepted]
        given, waiting = [(job, job._write_to) for job in unread], list(self.outbound_buffer)
        for job, _ in given:
            job._accepted = True
        super().flush()
        for job, child in given:
            job._accepted = job._worker_pid is not None
            if not job._accepted and (job in waiting or not child._is_alive()):
                self._cache[job._job] = job
                self._put_back(job)
        # Celery has freed every slot. Who gets one counts as started, and could wait behind these for hours.
        for _ in self._cache:
            self._putlock.acquire(noop)

    def _maintain_pool(self) -> None:
        """Celery frees a slot for every child that has ended. One that ended after its last job had freed it before,
        and the job that gets a slot too many would wait behind those that run.
        """
        joined = self._join_exited_workers()
        self._repopulate_pool(joined)
        for _ in joined:
            if self._putlock is not None and self._putlock.value + len(self._cache) < self._processes:
                self._putlock.release()

    def grow(self, n: int = 1) -> None:
        """Celery grants two slots for each new process. The job that got the second would wait as in `_maintain_pool`,
        and as it counts as started, nobody would hand it back.
        """
        super().grow(n)
        if self._putlock is not None:
            self._putlock.value = max(0, min(self._putlock.value, self._processes - len(self._cache)))

    def _on_soft_timeout(self, job: int, soft: float, hard: float | None, hub: Any) -> None:
        if self._still_runs(job):
            super()._on_soft_timeout(job, soft, hard, hub)

    def _on_hard_timeout(self, job: int) -> None:
        if self._still_runs(job):
            super()._on_hard_timeout(job)

    def _still_runs(self, job: int) -> bool:
        """Asks the child. The loop fires its timers before it reads, and while the broker is away it reads nothing."""
        if job in self._cache:
            child, _ = self._process_by_pid(self._cache[job]._worker_pid)
            if child is not None:
                self._hear(child)
        return job in self._cache

    def _hear(self, child: Any) -> None:
        """Its next report, whole. The loop may have read a part of it before."""
        handler, pipe = self._result_handler, child.outqR_fd
        handler._finish_partial_read(pipe, child)
        if child.outq._reader.poll(0):
            handler.handle_event(pipe)
            handler._finish_partial_read(pipe, child)

    def did_start_ok(self) -> bool:
        """Celery asks once, at the start: a pool has failed to start if none of its children lives."""
        return any(child.exitcode is None for child in self._pool)


def write_in_one(job: Any) -> None:
    """Celery writes the length first, which wakes the child for four bytes. So much at most is written whole or not."""
    length, body, _ = job._payload
    if len(length) + len(body) <= PIPE_BUF:
        job._payload = memoryview(b"".join((length, body))), memoryview(b""), 0


class PoolStep(bootsteps.Step):
    """Only says which pool is meant; Celery's own step makes it, when every step is known."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        prefork.TaskPool.Pool = Pool
