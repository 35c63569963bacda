"""What a strike does to stay sound when another one has been there before."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import redis

from apps.local.chaos.faults import FAULTS, broker, workers
from apps.local.chaos.faults.strike import Course
from apps.local.chaos.journal import Journal, Promise
from apps.local.chaos.witness import Witness
from apps.local.chaos.world import NO_FSYNC, World
from apps.local.postgres import PostgresServer


@dataclass
class Broker:
    """The part of a world that a strike on the broker touches, with the tests' own Redis."""

    client: "redis.Redis"
    is_away: bool = False

    def broker(self) -> Any:
        if self.is_away:
            raise redis.ConnectionError
        return self.client

    def lists(self, client: "redis.Redis") -> list[Any]:
        return World.lists(cast(World, self), client)

    def messages(self) -> list[str]:
        return World.messages(cast(World, self))


def test_a_malformed_message_that_was_given_back_is_the_next_to_be_fetched_again(valkey: "redis.Redis") -> None:
    valkey.lpush("default", "of a job", "bad marker-1", "of another job")
    next(broker.until_fetched(cast(World, Broker(valkey)), ["marker-1"]))
    assert valkey.lrange("default", 0, -1) == [b"of another job", b"of a job", b"bad marker-1"]


def test_malformed_messages_are_guarded_while_the_broker_does_not_answer(valkey: "redis.Redis") -> None:
    valkey.lpush("default", "bad marker-1")
    world = Broker(valkey, is_away=True)
    guard = broker.until_fetched(cast(World, world), ["marker-1"])
    next(guard)
    world.is_away = False
    next(guard)
    valkey.delete("default")
    with pytest.raises(StopIteration):
        next(guard)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres", password="secret", settings=NO_FSYNC)
    server.start()
    yield server
    server.remove()


def test_a_database_that_refused_the_strikes_questions_answers_commits_again(postgres: PostgresServer) -> None:
    environment = {"DATABASE_URL": postgres.url()}
    world = SimpleNamespace(postgres=postgres, environment=environment, witness=Witness(postgres.url()))
    strike = FAULTS["database crashed between a commit and its answer"].strike(cast(World, world), 0)
    next(strike)
    environment["DATABASE_URL"] = world.witness.url = postgres.url("no_such_database")
    with pytest.raises(psycopg.OperationalError):
        next(strike)
    with psycopg.connect(postgres.url()) as connection:
        assert connection.execute("SHOW synchronous_standby_names").fetchall() == [("",)]


@dataclass
class Frozen:
    """A world in which one worker holds jobs of two kinds, as often as it is looked at."""

    holds: dict[str, list[str]]
    again: bool = False
    is_frozen: bool = False

    @property
    def fleet(self) -> "Frozen":
        return self

    def running_on(self, _worker: str, only: list[str]) -> int:
        return len(self.held_by(_worker, only))

    def held_by(self, worker: str, only: list[str]) -> dict[str, int]:
        return {job_id: 1 for job_id in self.holds[worker] if job_id in only}

    def runs_again(self, held: dict[str, int]) -> bool:
        return self.again and bool(held)

    def suspend(self, _worker: str) -> list[Any]:
        self.is_frozen = True
        return []

    def resume(self, _family: list[Any]) -> None:
        self.is_frozen = False


def test_a_worker_is_worth_freezing_when_it_runs_a_job_of_each_kind() -> None:
    world = cast(World, Frozen({"a": ["token-1", "effect-1", "effect-2"], "b": ["effect-3"]}))
    kinds = ["token-1"], ["effect-1", "effect-2", "effect-3"]
    assert workers._if_of_each_kind(world, "a", *kinds) == 3
    assert workers._if_of_each_kind(world, "b", *kinds) == 0


def test_a_frozen_worker_wakes_up_when_its_job_runs_elsewhere() -> None:
    world = Frozen({"a": ["token-1"]})
    freeze = workers.freeze_until_replaced(cast(World, world), "a", ["token-1"])
    next(freeze)
    assert world.is_frozen
    world.again = True
    assert list(freeze) == []
    assert not world.is_frozen


class Valkey:
    is_frozen = False

    def suspend(self) -> None:
        self.is_frozen = True

    def resume(self) -> None:
        self.is_frozen = False


def end_of(course: Course) -> Any:
    """Without the waits."""
    while True:
        try:
            next(course)
        except StopIteration as end:
            return end.value


def test_whoever_freezes_the_broker_notes_what_became_of_his_own_errands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey, journal = Valkey(), Journal(tmp_path / "journal.jsonl")
    world = cast(World, SimpleNamespace(valkey=valkey, journal=journal))
    frozen: list[bool] = []

    def refuse() -> None:
        frozen.append(valkey.is_frozen)
        raise TimeoutError("the broker")

    monkeypatch.setattr(broker, "a_customer", lambda *_: SimpleNamespace(work=refuse))
    monkeypatch.setattr(broker, "record_now", lambda *_: journal.accept([Promise("id", "effect")]))
    hit = end_of(FAULTS["broker frozen"].strike(world, 0))
    assert frozen == [True]
    assert [errand.error for errand in journal.errands] == ["", "TimeoutError: the broker"]
    assert hit.number == 1
    assert not valkey.is_frozen


def test_a_broker_is_not_frozen_where_no_page_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "a_customer", lambda *_: None)
    assert end_of(FAULTS["broker frozen"].strike(cast(World, SimpleNamespace()), 0)).number == 0
