"""What a strike does to stay sound when another one has been there before."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
import redis

from apps.local.chaos.faults import broker
from apps.local.chaos.world import World


@dataclass
class Broker:
    """The part of a world that a strike on the broker touches, with the tests' own Redis."""

    client: "redis.Redis"
    is_away: bool = False

    def broker(self) -> Any:
        if self.is_away:
            raise redis.ConnectionError
        return self.client

    def lists(self, client: "redis.Redis") -> list[bytes]:
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
