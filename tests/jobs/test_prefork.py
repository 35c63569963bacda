from types import SimpleNamespace
from unittest.mock import Mock

from apps.jobs.prefork import EVERYTHING, Pool, ResultHandler


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
