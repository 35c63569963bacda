import os
from collections import Counter, deque
from collections.abc import Iterator
from pickle import dumps, loads
from select import PIPE_BUF
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from billiard import pool as billiard_pool
from billiard.compat import send_offset
from billiard.pool import READY, RUN, ApplyResult
from billiard.queues import _SimpleQueue
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR
from kombu.asynchronous import Hub as RealHub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from apps.jobs.prefork import EVERYTHING, Pool, ResultHandler, TimeoutHandler


class Hub:
    def __init__(self) -> None:
        self.watched: list[int] = []

    def add_reader(self, fd: int, *_: object) -> None:
        self.watched.append(fd)


def watched(child: SimpleNamespace) -> list[int]:
    hub = Hub()
    Pool._track_child_process(Pool.__new__(Pool), child, hub)
    return hub.watched


def test_a_child_that_died_while_the_broker_was_away_is_not_watched_again() -> None:
    assert watched(SimpleNamespace(_sentinel_poll=None)) == []


def test_a_living_child_is_watched() -> None:
    assert watched(SimpleNamespace(_sentinel_poll=7)) == [7]


def pool_of(*exit_codes: int | None) -> Pool:
    pool = Pool.__new__(Pool)
    pool._pool = [SimpleNamespace(exitcode=code) for code in exit_codes]
    return pool


def test_a_pool_that_a_job_has_cost_a_child_has_started_all_the_same() -> None:
    assert pool_of(-9, None).did_start_ok()


def test_a_pool_without_a_living_child_has_not_started() -> None:
    assert not pool_of(1, 1).did_start_ok()


def test_when_the_last_job_of_a_stopping_worker_is_read_no_child_waits_for_the_rest_to_be() -> None:
    handler, read = ResultHandler.__new__(ResultHandler), SimpleNamespace(value=3)
    handler.__dict__.update(dict.fromkeys(("check_timeouts", "on_state_change", "join_exited_workers"), Mock()))
    handler.__dict__.update(cache={}, fileno_to_outq={}, on_ready_counters={7: read})
    handler.on_stop_not_started()
    assert read.value == EVERYTHING


@pytest.fixture
def pool() -> Pool:
    """Two processes' worth of Celery's pool, as far as it forgets jobs."""
    pool = Pool.__new__(Pool)
    pool._state, pool.synack, pool._cache, pool.outbound_buffer = RUN, False, {}, deque()
    pool._active_writers, pool._active_writes, pool._busy_workers = set(), set(), {1, 2}
    pool._putlock, pool._processes = LaxBoundedSemaphore(2), 2
    pool.maintain_pool, pool._put_back = Mock(), pool.outbound_buffer.appendleft
    return pool


def job_in(pool: Pool, child: Any = None) -> Any:
    job = ApplyResult(pool._cache, None)
    job._write_to = child
    if child is None:
        pool.outbound_buffer.append(job)
    return job


def child(is_alive: bool = True) -> SimpleNamespace:
    return SimpleNamespace(inqW_fd=1, _is_alive=lambda: is_alive)


def test_when_the_broker_is_lost_the_job_that_a_child_was_given_stays_and_the_one_that_none_was_goes(
    pool: Pool,
) -> None:
    given, accepted, waiting = job_in(pool, child()), job_in(pool, child()), job_in(pool)
    accepted._ack(None, 0.0, 7, None)
    pool.flush()
    assert list(pool._cache.values()) == [given, accepted]
    assert (given.accepted(), accepted.accepted()) == (False, True)
    assert waiting not in pool.outbound_buffer


def test_a_child_that_was_given_a_job_is_given_no_other_when_the_broker_is_back(pool: Pool) -> None:
    job_in(pool, child())
    pool.flush()
    assert pool._busy_workers == {1}


def test_the_job_of_a_child_that_died_as_the_broker_was_lost_waits_for_another(pool: Pool) -> None:
    job = job_in(pool, child(is_alive=False))
    pool.flush()
    assert (list(pool.outbound_buffer), list(pool._cache.values())) == ([job], [job])


def test_the_job_of_a_dead_child_waits_for_another_though_its_replacement_has_the_same_pipes_number(pool: Pool) -> None:
    job = job_in(pool, child(is_alive=False))

    def replace_it() -> None:
        job._write_to = child()

    pool.maintain_pool = replace_it
    pool.flush()
    assert list(pool.outbound_buffer) == [job]


def test_a_job_that_waits_for_another_child_still_does_though_celery_names_the_dead_ones_replacement(
    pool: Pool,
) -> None:
    job = job_in(pool, child())
    pool.outbound_buffer.append(job)
    pool.flush()
    assert (list(pool.outbound_buffer), list(pool._cache.values())) == ([job], [job])


def test_what_a_child_reports_meanwhile_counts(pool: Pool) -> None:
    job = job_in(pool, child())
    pool.maintain_pool = lambda: job._ack(None, 0.0, 7, None)
    pool.flush()
    assert job.accepted()


def test_what_still_runs_when_the_broker_is_back_has_its_slot(pool: Pool) -> None:
    """Celery frees all of them, and would give two more jobs to the pool, to wait there behind these."""
    _given, accepted, start = job_in(pool, child()), job_in(pool, child()), Mock()
    accepted._ack(None, 0.0, 7, None)
    pool.flush()
    pool._putlock.acquire(start)
    start.assert_not_called()
    pool._putlock.release()
    start.assert_called_once_with()


def run_in(pool: Pool) -> Any:
    job = job_in(pool, child())
    job._ack(None, 0.0, 7, None)
    pool._putlock.acquire(Mock())
    return job


def lose_a_child(pool: Pool) -> None:
    pool._join_exited_workers, pool._repopulate_pool = Mock(return_value=[0]), Mock()
    pool._maintain_pool()


def test_a_child_that_has_ended_after_its_last_job_frees_no_slot_once_more(pool: Pool) -> None:
    """The job that got it would wait behind one that runs for hours, and counts as started."""
    run_in(pool)
    lose_a_child(pool)
    assert pool._putlock.value == 1


def test_a_job_that_waits_for_a_slot_gets_none_of_a_child_that_was_recycled(pool: Pool) -> None:
    waiting = Mock()
    run_in(pool), run_in(pool)
    pool._putlock.acquire(waiting)
    lose_a_child(pool)
    waiting.assert_not_called()


def test_a_child_that_was_lost_frees_the_slot_of_its_job(pool: Pool) -> None:
    waiting = Mock()
    lost, _other = run_in(pool), run_in(pool)
    pool._putlock.acquire(waiting)
    lost.discard()
    lose_a_child(pool)
    waiting.assert_called_once_with()


def grow(pool: Pool) -> None:
    pool.on_grow = Mock()
    pool.grow(1)


def test_a_pool_that_grows_has_one_slot_more_for_each_process(pool: Pool) -> None:
    """Celery grants two, and the job that gets the second one would wait behind those that run."""
    run_in(pool), run_in(pool)
    grow(pool)
    assert pool._putlock.value == 1


def test_when_a_pool_grows_the_first_that_waits_for_a_slot_has_it(pool: Pool) -> None:
    run_in(pool), run_in(pool)
    later = Mock()
    pool._putlock.acquire(job_in, pool, child())
    pool._putlock.acquire(later)
    grow(pool)
    assert len(pool._cache) == 3
    assert pool._putlock.value == 0
    later.assert_not_called()


def test_a_child_that_is_out_of_time_is_ended_once_before_anybody_waits_for_a_row_that_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    late = SimpleNamespace(pid=7, exitcode=None)

    def kill(_: Any, child: SimpleNamespace) -> None:
        child.exitcode = -9
        said.append("killed")

    monkeypatch.setattr(billiard_pool.TimeoutHandler, "_trywaitkill", kill)
    job = ApplyResult({}, None, timeout_callback=lambda **_: said.append("buried"))
    job._ack(None, 0.0, 7, None)
    TimeoutHandler([late], {}, None, 1.0).on_hard_timeout(job)
    assert said == ["killed", "buried"]
    assert job.ready()


class Child:
    """One that runs a job, as far as it reports of it."""

    pid, inqW_fd = 7, 1  # noqa: N815 - Celery's name

    def __init__(self) -> None:
        self.outq = _SimpleQueue(rnonblock=True)
        self.outqR_fd = self.outq._reader.fileno()

    def _is_alive(self) -> bool:
        return True

    def write(self, report: bytes) -> None:
        os.write(self.outq._writer.fileno(), report)


@pytest.fixture
def running(pool: Pool) -> Iterator[Any]:
    """A job with time limits, in a pool that a loop looks after."""
    child, hub, others = Child(), RealHub(), [Mock() for _ in range(4)]
    handler = ResultHandler(
        None, None, pool._cache, *others, None, Mock(), fileno_to_outq={child.outqR_fd: child}, on_process_alive=Mock()
    )
    handler.register_with_event_loop(hub)
    pool._pool, pool._result_handler = [child], handler
    pool.on_soft_timeout, pool.on_hard_timeout, pool._discard_tref, pool._tref_for_id = Mock(), Mock(), Mock(), {}
    job = job_in(pool, child)
    job._ack(None, 0.0, child.pid, None)
    yield job
    hub.close()
    child.outq.close()


def success_of(job: Any) -> bytes:
    body = dumps((READY, (job._job, None, (True, "x" * 20_000), Child.inqW_fd)))
    return len(body).to_bytes(4, "big") + body


def strike(pool: Pool, job: Any) -> None:
    pool._on_soft_timeout(job._job, 1.0, 2.0, Mock())
    pool._on_hard_timeout(job._job)


@pytest.mark.parametrize("read_before", [0, 4, 5_000])
def test_a_job_whose_end_has_not_been_read_yet_is_not_out_of_time(pool: Pool, running: Any, read_before: int) -> None:
    [child], report = pool._pool, success_of(running)
    if read_before:
        child.write(report[:read_before])
        pool._result_handler.handle_event(child.outqR_fd)
    child.write(report[read_before:])
    strike(pool, running)
    pool.on_soft_timeout.assert_not_called()
    pool.on_hard_timeout.assert_not_called()
    assert (running.successful(), pool._cache) == (True, {})


def test_a_job_whose_child_has_reported_no_end_is_out_of_time(pool: Pool, running: Any) -> None:
    strike(pool, running)
    pool.on_soft_timeout.assert_called_once_with(running)
    pool.on_hard_timeout.assert_called_once_with(running)


class Pipes:
    """A pool with a loop of its own, and children that are pipes."""

    def __init__(self, children: int) -> None:
        self.hub: Any = RealHub()
        self.readers: dict[int, int] = {}
        self.pool: Any = Pool.__new__(Pool)
        self.pool.sched_strategy = SCHED_STRATEGY_FAIR
        self.pool._cache, self.pool.outbound_buffer, self.pool.write_stats = {}, deque(), Counter()
        self.pool._fileno_to_inq, self.pool._fileno_to_synq = {}, {}
        for name in ("_all_inqueues", "_active_writes", "_active_writers", "_busy_workers"):
            setattr(self.pool, name, set())
        for index in range(children):
            self.add_child(index)
        self.pool._create_write_handlers(self.hub)

    def add_child(self, index: int) -> None:
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        self.readers[writer] = reader
        child = SimpleNamespace(index=index, send_job_offset=lambda buf, at: send_offset(writer, buf, at))
        self.pool._fileno_to_inq[writer] = child
        self.pool._all_inqueues.add(writer)

    def give(self, arguments: str) -> None:
        job = ApplyResult(self.pool._cache, None)
        self.pool._quick_put(("TASK", (job._job, arguments)))

    def turn(self) -> None:
        """One turn of the loop, as a worker's has it."""
        self.pool.on_poll_start()
        next(self.hub.create_loop())

    def close(self) -> None:
        self.hub.close()
        for pipe in self.readers.items():
            for end in pipe:
                os.close(end)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes(children=1)
    yield pipes
    pipes.close()


def read(pipes: Pipes) -> bytes:
    [reader] = pipes.readers.values()
    return os.read(reader, 2**20)


def arguments_in(message: bytes) -> Any:
    assert int.from_bytes(message[:4], "big") == len(message) - 4
    return loads(message[4:])[1][1]


def test_a_free_child_has_its_job_before_the_loops_next_turn(pipes: Pipes) -> None:
    pipes.give("work")
    assert arguments_in(read(pipes)) == "work"


def test_a_short_job_is_one_write_so_that_its_child_wakes_once(pipes: Pipes) -> None:
    [child] = pipes.pool._fileno_to_inq.values()
    child.send_job_offset = write = Mock(wraps=child.send_job_offset)
    pipes.give("work")
    write.assert_called_once()
    assert arguments_in(read(pipes)) == "work"


@pytest.mark.parametrize("length", [PIPE_BUF - 60, PIPE_BUF, 2**16, 2**20])
def test_a_long_job_arrives_whole_over_several_turns(pipes: Pipes, length: int) -> None:
    pipes.give("x" * length)
    message = read(pipes)
    while pipes.pool._active_writers:
        pipes.turn()
        message += read(pipes)
    assert arguments_in(message) == "x" * length


def test_a_job_for_which_no_child_is_free_waits_until_one_is(pipes: Pipes) -> None:
    pipes.give("first")
    pipes.give("second")
    assert arguments_in(read(pipes)) == "first"
    pipes.turn()
    [child] = pipes.readers
    pipes.pool._busy_workers.discard(child)
    pipes.turn()
    assert arguments_in(read(pipes)) == "second"


def test_the_oldest_job_goes_first(pipes: Pipes) -> None:
    pipes.give("running")
    pipes.give("put back")
    read(pipes)
    [child] = pipes.readers
    pipes.pool._busy_workers.discard(child)
    pipes.give("new")
    assert arguments_in(read(pipes)) == "put back"


def test_while_no_job_waits_the_loop_does_not_watch_whether_children_can_be_written_to(pipes: Pipes) -> None:
    pipes.give("first")
    pipes.give("second")
    [child] = pipes.readers
    pipes.pool._busy_workers.discard(child)
    pipes.turn()
    pipes.turn()
    pipes.hub.poller.unregister = Mock()
    pipes.pool.on_poll_start()
    assert child not in pipes.hub.writers
    pipes.hub.poller.unregister.assert_not_called()
