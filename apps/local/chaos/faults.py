"""The faults, one function each: strike, wait, and undo.

Each is a generator, so that several can be under way at once and the run can look after its processes meanwhile: it
yields the seconds until it wants to go on, and returns what it hit. `choice` (0 to 1) picks the victim.
"""

import json
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import psycopg
import redis
from django.db import close_old_connections
from django.utils import timezone

from apps.local.chaos import malformed, mix
from apps.local.chaos import tasks as chaos
from apps.local.chaos.journal import Promise
from apps.local.chaos.plan import Kind
from apps.local.chaos.producer import record
from apps.local.chaos.world import BEATS, LOW, PREFORK, RELAYS, WORKERS, World, until
from tasks import lab

T = TypeVar("T")


@dataclass(frozen=True)
class Hit:
    """What a strike met: so many of these."""

    number: int
    what: str


Course = Generator[float, None, Hit]


@dataclass(frozen=True)
class Fault:
    kind: Kind
    strike: Callable[[World, float], Course]


FAULTS: dict[str, Fault] = {}
DESK = ThreadPoolExecutor(max_workers=1, thread_name_prefix="desk")

# Past the lease (4 s), the rescue (1 s) and the new start of the job elsewhere.
FROZEN_SECONDS = 7.0
# A worker needs two or three seconds of processor time to start.
RESTART_SECONDS = 4.0
DUPLICATES = 10
A_LOOK = 0.1
WAIT_FOR_WORK = 3.0
# The server hands over a message within milliseconds, if the worker had asked when it was frozen.
HANDED_OVER = 0.5


def fault(name: str, *, resource: str, seconds: float) -> Callable[[Callable[[World, float], Course]], None]:
    def register(strike: Callable[[World, float], Course]) -> None:
        FAULTS[name] = Fault(Kind(resource, seconds), strike)

    return register


def pick(choice: float, things: Sequence[T]) -> T:
    return things[int(choice * len(things))]


def until_busy(world: World, worker: str) -> Generator[float, None, int]:
    """A strike at an idle worker shows little. Returns how many jobs it runs; 0 if it had none for long enough."""
    waited_long_enough = until(lambda: world.running_on(worker), WAIT_FOR_WORK)
    while not waited_long_enough():
        yield A_LOOK
    return world.running_on(worker)


def ask_for(world: World, wish: Callable[[], list[Promise]]) -> Generator[float, None, list[Promise]]:
    """Record jobs in a thread: another strike of this very thread may hold a lock that the INSERT waits for."""
    asked = DESK.submit(_record, world, wish)
    while not asked.done():
        yield A_LOOK
    return asked.result()


def _record(world: World, wish: Callable[[], list[Promise]]) -> list[Promise]:
    # The connection may be one to a database that was restarted since.
    close_old_connections()
    return record(world.journal, wish)


# --- Workers ----------------------------------------------------------------------------------------------------------


@fault("kill -9 of a worker and its pool", resource="workers", seconds=6)
def kill_worker(world: World, choice: float) -> Course:
    worker = pick(choice, WORKERS)
    running = yield from until_busy(world, worker)
    world.fleet.kill(worker)
    yield RESTART_SECONDS
    return Hit(running, "running jobs")


@fault("kill -9 of a worker's main process", resource="workers", seconds=6)
def kill_main_process(world: World, choice: float) -> Course:
    """Its pool lives on for a moment and may end its jobs: nobody renews their leases."""
    worker = pick(choice, WORKERS)
    running = yield from until_busy(world, worker)
    world.fleet.members[worker].struck = True
    world.fleet.send(worker, signal.SIGKILL)
    yield RESTART_SECONDS
    return Hit(running, "running jobs")


@fault("kill -9 of all pool children", resource="workers", seconds=2)
def kill_child(world: World, choice: float) -> Course:
    worker = pick(choice, PREFORK)
    running = yield from until_busy(world, worker)
    for child in world.fleet.children(worker):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    yield 1.0
    return Hit(running, "running jobs")


@fault("SIGTERM of a worker under load", resource="workers", seconds=10)
def terminate_worker(world: World, choice: float) -> Course:
    worker = pick(choice, WORKERS)
    starts = world.fleet.members[worker].starts
    running = yield from until_busy(world, worker)
    world.fleet.terminate(worker)
    stopped = until(lambda: world.fleet.restarted(worker, starts), 15)
    while not stopped():
        yield A_LOOK
    return Hit(running, "running jobs")


@fault("worker frozen past its lease", resource="workers", seconds=9)
def freeze_worker(world: World, choice: float) -> Course:
    """It is given jobs that run for long enough elsewhere that it wakes up while they do."""
    worker = pick(choice, PREFORK)
    yield from ask_for(world, lambda: [mix.promise(chaos.token.delay(seconds=5), "token") for _ in range(4)])
    running = yield from until_busy(world, worker)
    family = world.fleet.suspend(worker)
    yield FROZEN_SECONDS
    world.fleet.resume(family)
    return Hit(running, "running jobs")


@fault("kill -9 between fetch and registration", resource="workers", seconds=8)
def kill_while_fetching(world: World, _choice: float) -> Course:
    """An idle worker is frozen while it waits for a message; the server hands it one; the worker never wakes up."""
    tried_often_enough = until(lambda: False, 8)
    taken = 0
    while not taken and not tried_often_enough():
        family = world.fleet.suspend(LOW)
        asked = yield from ask_for(world, lambda: [mix.promise(lab.lab_nothing.apply_async(queue="low"), "fetched")])
        yield HANDED_OVER
        taken = len(asked) if _queue_is_empty(world, "low") else 0
        if not taken:
            world.fleet.resume(family)
            yield HANDED_OVER
    world.fleet.kill(LOW)
    yield RESTART_SECONDS
    return Hit(taken, "messages in the window")


def _queue_is_empty(world: World, queue: str) -> bool:
    with suppress(redis.RedisError), world.broker() as client:
        return bool(client.llen(queue) == 0)
    return False


# --- Relay, beat, web -------------------------------------------------------------------------------------------------


@fault("kill -9 of a relay", resource="relays", seconds=4)
def kill_relay(world: World, choice: float) -> Course:
    world.fleet.kill(pick(choice, RELAYS))
    yield 2.0
    return Hit(1, "relays")


@fault("kill -9 of both relays", resource="relays", seconds=5)
def kill_both_relays(world: World, _choice: float) -> Course:
    for relay in RELAYS:
        world.fleet.kill(relay)
    yield 3.0
    return Hit(2, "relays")


@fault("kill -9 of a beat", resource="beats", seconds=8)
def kill_beat(world: World, choice: float) -> Course:
    world.fleet.kill(pick(choice, BEATS))
    yield 5.0
    return Hit(1, "beats")


@fault("kill -9 of the web process", resource="web", seconds=6)
def kill_web(world: World, _choice: float) -> Course:
    world.fleet.kill("web")
    yield RESTART_SECONDS
    return Hit(1, "web processes")


@fault("kill -9 of the web process between request and commit", resource="web", seconds=8)
def kill_web_before_commit(world: World, _choice: float) -> Course:
    """A lock makes requests wait for their job's row, with the order written already: there they die."""
    waiting = 0
    with suppress(psycopg.Error), psycopg.connect(world.environment["DATABASE_URL"], connect_timeout=5) as session:
        session.execute("LOCK TABLE jobs_job IN SHARE ROW EXCLUSIVE MODE")
        looked_long_enough = until(lambda: _requests_that_wait(session), 3)
        while not looked_long_enough():
            yield A_LOOK
        waiting = _requests_that_wait(session)
        world.fleet.kill("web")
        yield A_LOOK
    yield RESTART_SECONDS
    return Hit(waiting, "requests before their commit")


def _requests_that_wait(session: "psycopg.Connection[Any]") -> int:
    """Transactions that have written an order and now wait for our lock."""
    query = """
        SELECT count(DISTINCT waiting.pid) FROM pg_locks AS waiting JOIN pg_locks AS written USING (pid)
        WHERE waiting.relation = 'jobs_job'::regclass AND NOT waiting.granted
          AND written.relation = 'orders_orderline'::regclass AND written.mode = 'RowExclusiveLock'
    """
    row = session.execute(query).fetchone()
    return int(row[0]) if row else 0


# --- Broker -----------------------------------------------------------------------------------------------------------


@fault("broker restarted", resource="broker", seconds=5)
def restart_broker(world: World, _choice: float) -> Course:
    world.valkey.restart()
    yield 3.0
    return Hit(1, "restarts")


@fault("broker killed (kill -9)", resource="broker", seconds=5)
def kill_broker(world: World, _choice: float) -> Course:
    world.valkey.kill9()
    world.valkey.start()
    yield 3.0
    return Hit(1, "kills")


@fault("broker wiped (FLUSHALL)", resource="broker", seconds=4)
def wipe_broker(world: World, _choice: float) -> Course:
    messages = world.in_broker()
    with world.broker() as client:
        client.flushall()
    yield 2.0
    return Hit(messages, "messages")


@fault("broker's memory full", resource="broker", seconds=8)
def fill_broker(world: World, _choice: float) -> Course:
    with world.broker() as client:
        client.config_set("maxmemory", "1")
        yield 6.0
        client.config_set("maxmemory", world.valkey.settings["maxmemory"])
    return Hit(1, "times")


@fault("broker away for 20 s", resource="broker", seconds=23)
def stop_broker(world: World, _choice: float) -> Course:
    world.valkey.stop()
    yield 20.0
    world.valkey.start()
    return Hit(20, "seconds")


@fault("broker frozen", resource="broker", seconds=9)
def freeze_broker(world: World, _choice: float) -> Course:
    before = len(world.journal.orders)
    world.valkey.suspend()
    yield 7.0
    world.valkey.resume()
    return Hit(len(world.journal.orders) - before, "orders placed meanwhile")


@fault("messages duplicated ten times", resource="broker", seconds=6)
def duplicate_messages(world: World, _choice: float) -> Course:
    """At once, and again when the jobs have ended."""
    copies = _messages_at_hand(world)
    _push_again(world, copies)
    yield 4.0
    _push_again(world, copies)
    return Hit(len(copies), "messages")


def _messages_at_hand(world: World) -> list[dict[str, Any]]:
    with world.broker() as client:
        unacked = [json.loads(item)[0] for item in client.hvals("unacked")]
        waiting = [json.loads(item) for queue in ("default", "io", "low") for item in client.lrange(queue, 0, 20)]
    return [message for message in unacked + waiting if message["headers"].get("ledger")]


def _push_again(world: World, messages: list[dict[str, Any]]) -> None:
    """Each with a delivery tag of its own, as a second sending would have."""
    with world.broker() as client:
        for message in messages * DUPLICATES:
            copy = {**message, "properties": {**message["properties"], "delivery_tag": str(uuid4())}}
            client.lpush(message["properties"]["delivery_info"]["routing_key"], json.dumps(copy))


@fault("every kind of malformed message", resource="broker", seconds=12)
def send_malformed(world: World, choice: float) -> Course:
    """The broker is left in peace until all of them are settled: a wiped broker may lose what is in no ledger."""
    kinds = Random(choice).sample(sorted(malformed.KINDS), len(malformed.KINDS))
    with world.broker() as client:
        for kind in kinds:
            item, message = malformed.malformed(kind)
            client.lpush("default", item)
            world.journal.bad_message(message)
    settled = until(lambda: _is_empty(world), 30)
    while not settled():
        yield 0.5
    return Hit(len(kinds), "messages")


def _is_empty(world: World) -> bool:
    return world.in_broker() == 0


# --- Database ---------------------------------------------------------------------------------------------------------


@fault("database restarted (fast)", resource="database", seconds=6)
def restart_database(world: World, _choice: float) -> Course:
    running = world.running_on(*WORKERS)
    world.postgres.restart("fast")
    yield 3.0
    return Hit(running, "running jobs")


@fault("database restarted (immediate)", resource="database", seconds=6)
def crash_database(world: World, _choice: float) -> Course:
    running = world.running_on(*WORKERS)
    world.postgres.restart("immediate")
    yield 3.0
    return Hit(running, "running jobs")


# --- Third parties ----------------------------------------------------------------------------------------------------


def switch_on(party: str, mode: str, **how: Any) -> Callable[[World, float], Course]:
    def strike(world: World, _choice: float) -> Course:
        before = _faults_of(world, party)
        world.sandbox.fault(party, mode, **how)
        yield 5.0
        world.sandbox.clear(party)
        return Hit(_faults_of(world, party) - before, "requests")

    return strike


def _faults_of(world: World, party: str) -> int:
    return sum(world.sandbox.counts()["faults"].get(party, {}).values())


for party in ("stripe", "supplier"):
    for mode, title, how in (
        ("error", "answers 500", {"rate": 0.7}),
        ("rate_limit", "answers 429", {"rate": 0.7}),
        ("hang", "hangs", {"rate": 0.7, "hold": 4}),
        ("cut", "closes mid-answer", {"rate": 0.7}),
    ):
        fault(f"{party} {title}", resource=party, seconds=7)(switch_on(party, mode, **how))
fault("stripe answers 500 after the work", resource="stripe", seconds=7)(switch_on("stripe", "error_after", rate=0.7))
fault("mail server says come later", resource="mail", seconds=10)(switch_on("mail", "error", rate=0.7))


# --- Jobs -------------------------------------------------------------------------------------------------------------


@fault("a task that segfaults each time", resource="jobs", seconds=5)
def record_poison(world: World, _choice: float) -> Course:
    asked = yield from ask_for(world, lambda: [mix.promise(chaos.segfault.delay(), "poison", mix.DEAD)])
    yield 1.0
    return Hit(len(asked), "jobs")


@fault("run_at an hour ahead", resource="jobs", seconds=5)
def record_ahead(world: World, _choice: float) -> Course:
    asked = yield from ask_for(world, _an_hour_ahead)
    world.ahead += [promise.job_id for promise in asked]
    yield 1.0
    return Hit(len(asked), "jobs")


def _an_hour_ahead() -> list[Promise]:
    eta = timezone.now() + timedelta(hours=1)
    return [mix.promise(lab.lab_nothing.apply_async(eta=eta), "an hour ahead")]
