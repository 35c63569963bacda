"""What happens to the broker, and to the messages in it."""

import json
from collections.abc import Generator
from random import Random
from typing import Any
from uuid import uuid4

import redis

from apps.local.chaos import malformed, mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.faults.strike import Course, Hit, ask_for, fault, until_met
from apps.local.chaos.journal import Promise
from apps.local.chaos.world import World, until

DUPLICATES = 10
# More would show nothing new, and keep two cores busy for half a minute.
AT_ONCE = 25


def until_it_holds_messages(world: World) -> Generator[float, None, int]:
    """Also those that are not acknowledged."""
    return (yield from until_met(world, world.in_broker, _effects))


def _effects() -> list[Promise]:
    return [mix.promise(chaos.effect.delay(seconds=1), "effect") for _ in range(4)]


@fault("broker restarted", resource="broker", seconds=5)
def restart_broker(world: World, _choice: float) -> Course:
    messages = yield from until_it_holds_messages(world)
    world.valkey.restart()
    yield 3.0
    return Hit(messages, "messages")


@fault("broker killed (kill -9)", resource="broker", seconds=5)
def kill_broker(world: World, _choice: float) -> Course:
    messages = yield from until_it_holds_messages(world)
    world.valkey.kill9()
    world.valkey.start()
    yield 3.0
    return Hit(messages, "messages")


@fault("broker wiped (FLUSHALL)", resource="broker", seconds=4)
def wipe_broker(world: World, _choice: float) -> Course:
    messages = yield from until_it_holds_messages(world)
    with world.broker() as client:
        client.flushall()
    yield 2.0
    return Hit(messages, "messages")


@fault("broker's memory full", resource="broker", seconds=8)
def fill_broker(world: World, _choice: float) -> Course:
    with world.broker() as client:
        before = _refused(client)
        client.config_set("maxmemory", "1")
        yield 6.0
        client.config_set("maxmemory", world.valkey.settings["maxmemory"])
        return Hit(_refused(client) - before, "commands refused")


def _refused(client: "redis.Redis") -> int:
    """For want of memory, since the server's start."""
    return int(client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


@fault("broker away for 20 s", resource="broker", seconds=23)
def stop_broker(world: World, _choice: float) -> Course:
    world.valkey.stop()
    yield 20.0
    world.valkey.start()
    return Hit(20, "seconds")


@fault("broker frozen", resource="broker", seconds=9)
def freeze_broker(world: World, _choice: float) -> Course:
    """Some jobs it asks for itself, in case that everybody else has what he wants."""
    before = world.journal.count
    world.valkey.suspend()
    yield from ask_for(world, _effects)
    yield 7.0
    world.valkey.resume()
    return Hit(world.journal.count - before, "jobs and orders accepted meanwhile")


@fault("messages duplicated ten times", resource="broker", seconds=6)
def duplicate_messages(world: World, _choice: float) -> Course:
    """At once, and again when the jobs have ended."""
    copies = yield from until_met(world, lambda: _messages_at_hand(world), _effects)
    _push_again(world, copies)
    yield 4.0
    _push_again(world, copies)
    return Hit(len(copies), "messages")


def _messages_at_hand(world: World) -> list[dict[str, Any]]:
    with world.broker() as client:
        unacked = [json.loads(item)[0] for item in client.hvals("unacked")]
        waiting = [json.loads(item) for queue in ("default", "io", "low") for item in client.lrange(queue, 0, 20)]
    return [message for message in unacked + waiting if message["headers"].get("ledger")][:AT_ONCE]


def _push_again(world: World, messages: list[dict[str, Any]]) -> None:
    """Each with a delivery tag of its own, as a second sending would have."""
    with world.broker() as client:
        for message in messages * DUPLICATES:
            copy = {**message, "properties": {**message["properties"], "delivery_tag": str(uuid4())}}
            client.lpush(message["properties"]["delivery_info"]["routing_key"], json.dumps(copy))


@fault("every kind of malformed message", resource="broker", seconds=12)
def send_malformed(world: World, choice: float) -> Course:
    """They are the next to be fetched, and the broker is left in peace until all of them are: what is in no ledger, a
    wiped broker may lose.
    """
    kinds = Random(choice).sample(sorted(malformed.KINDS), len(malformed.KINDS))
    markers: list[str] = []
    with world.broker() as client:
        for kind in kinds:
            item, message = malformed.malformed(kind)
            client.rpush("default", item)
            world.journal.bad_message(message)
            markers.append(message.marker)
    # Long: one that a busy worker gave back is behind the whole backlog.
    settled = until(lambda: not _holds_any(world, markers), 120)
    while not settled():
        yield 0.5
    return Hit(len(kinds), "messages")


def _holds_any(world: World, markers: list[str]) -> bool:
    messages = world.messages()
    return any(marker in message for marker in markers for message in messages)
