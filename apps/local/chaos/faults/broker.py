"""What happens to the broker, and to the messages in it."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from random import Random
from typing import Any
from uuid import uuid4

import redis
import requests

from apps.local.chaos import malformed, mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.faults.strike import (
    A_LOOK,
    DESK,
    KEEP_ASKING,
    Course,
    Hit,
    at_the_desk,
    fault,
    record_now,
    until_met,
)
from apps.local.chaos.journal import Errand, Promise
from apps.local.chaos.producer import Shopper
from apps.local.chaos.world import World, until

DUPLICATES = 10
# More would show nothing new, and keep two cores busy for half a minute.
AT_ONCE = 25
FROZEN_SECONDS = 7.0
# So much longer it stays frozen while it is waited for: past what an audit takes for a busy machine.
FROZEN_FOR_THEM = 10.0
# Malformed messages at the front are fetched in a second or two. A wipe would lose the rest, so the broker is kept from
# it for far longer than a worker takes to start again, which the pool of the one that had them may have to.
BACK_IN_FRONT_EVERY = 10.0
KEEP_GUARDING = 300.0
# Only what is still there: one that was fetched in this very moment must not come twice.
TO_THE_FRONT = "if redis.call('LREM', KEYS[1], 1, ARGV[1]) > 0 then redis.call('RPUSH', KEYS[1], ARGV[1]) end"


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


@fault("broker frozen", resource="broker", seconds=9, spared=("database", "web"))
def freeze_broker(world: World, choice: float) -> Course:
    """It is a customer and a clerk itself meanwhile. Nothing else is struck that they could have to wait for."""
    shopper = yield from at_the_desk(lambda: a_customer(world, choice))
    if shopper is None:
        return Hit(0, "jobs and orders accepted meanwhile")
    before = world.journal.count
    world.valkey.suspend()
    try:
        asked = DESK.submit(ask_and_time, world, shopper)
        yield FROZEN_SECONDS
        long_enough = until(asked.done, FROZEN_FOR_THEM)
        while not long_enough():
            yield A_LOOK
    finally:
        world.valkey.resume()
    while not asked.done():
        yield A_LOOK
    return Hit(world.journal.count - before, "jobs and orders accepted meanwhile")


def a_customer(world: World, choice: float) -> Shopper | None:
    """Signed in, as soon as the web process serves pages again; None, if it does not."""
    shopper = Shopper(world.journal, Random(choice), world.environment["SITE_URL"])
    tired = until(lambda: False, KEEP_ASKING)
    while not tired():
        with suppress(requests.RequestException, RuntimeError):
            shopper.sign_in()
            shopper.prepare()
            return shopper
        time.sleep(A_LOOK)
    return None


def ask_and_time(world: World, shopper: Shopper) -> None:
    """Each notes how long it took, and its error, for the audit."""
    _run_errand(world, "`.delay()`", lambda: record_now(world, _effects))
    _run_errand(world, "an order over HTTP", shopper.work)


def _run_errand(world: World, what: str, run: Callable[[], object]) -> None:
    began, error = time.monotonic(), ""
    try:
        run()
    except Exception as exc:  # noqa: BLE001 - whatever it is, somebody has noticed that the broker was frozen
        error = f"{type(exc).__name__}: {exc}"
    world.journal.run_errand(Errand(what, time.monotonic() - began, error))


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
    # Where the broker does not answer, those that were sent are guarded all the same.
    with suppress(redis.RedisError), world.broker() as client:
        for kind in kinds:
            item, message = malformed.malformed(kind)
            client.rpush("default", item)
            world.journal.bad_message(message)
            markers.append(message.marker)
    yield from until_fetched(world, markers)
    return Hit(len(markers), "messages")


def until_fetched(world: World, markers: list[str]) -> Generator[float, None, None]:
    """One that a busy worker gave back lies behind the whole backlog: it is brought to the front again."""
    tired = until(lambda: False, KEEP_GUARDING)
    while _holds_any(world, markers) and not tired():
        with suppress(redis.RedisError):
            bring_to_the_front(world, markers)
        fetched = until(lambda: not _holds_any(world, markers), BACK_IN_FRONT_EVERY)
        while not fetched():
            yield 0.5


def bring_to_the_front(world: World, markers: list[str]) -> None:
    with world.broker() as client:
        for key in world.lists(client):
            for item in client.lrange(key, 0, -1):
                if _is_marked(item.decode(), markers):
                    client.eval(TO_THE_FRONT, 1, key, item)


def _holds_any(world: World, markers: list[str]) -> bool:
    """Yes, if nobody can say."""
    try:
        return any(_is_marked(message, markers) for message in world.messages())
    except redis.RedisError:
        return True


def _is_marked(message: str, markers: list[str]) -> bool:
    return any(marker in message for marker in markers)
