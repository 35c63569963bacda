"""What only RabbitMQ does: it refuses for now, confirms late, and loses a node.

`make brokers` runs it, because its server takes ten seconds to start.
"""

from collections.abc import Iterator
from unittest.mock import Mock

import psutil
import pytest
from amqp.exceptions import MessageNacked
from celery import current_app
from kombu import Connection, Producer, Queue
from kombu.pools import producers

from apps.jobs.brokers import rabbitmq
from apps.jobs.brokers.rabbitmq import RabbitMQMemory
from apps.jobs.models import Job
from apps.jobs.relay import POLL_EVERY, Relay
from apps.local.children import family_of
from apps.local.rabbitmq import RabbitMQServer
from apps.local.waiting import wait_for
from config.broker import GIVEN_UP, broker_of
from tasks.lab import lab_nothing
from tests.brokers.conftest import wanted

# Refuses every message.
FULL = {"x-max-length": 0, "x-overflow": "reject-publish"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQServer]:
    if "rabbitmq" not in wanted():
        pytest.skip("Only where BROKERS names rabbitmq.")
    server = RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"), password="rabbitmq")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(server: RabbitMQServer) -> Iterator[Connection]:
    made = broker_of(server.url())
    assert current_app.conf  # which puts our transports in kombu's place
    with Connection(made.url, transport_options=dict(made.options)) as broker:
        yield broker


@pytest.fixture
def relay(transactional_db: None, broker: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    app = current_app._get_current_object()
    monkeypatch.setattr(app, "connection_for_write", lambda *_, **__: broker.clone())
    relay = Relay(app)
    yield relay
    relay.ear.close()


def publish(broker: Connection, queue: str) -> None:
    with producers[broker].acquire(block=True) as producer:
        producer.publish("", routing_key=queue)


def declare(broker: Connection, name: str, arguments: dict[str, object]) -> None:
    Queue(name, queue_arguments=arguments, channel=broker.default_channel).declare()


def family(server: RabbitMQServer) -> list[psutil.Process]:
    assert server.process
    return family_of(server.process.pid)


@pytest.fixture
def small_queue(broker: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """`default` has room for one job."""
    monkeypatch.setattr(current_app.amqp.queues["default"], "queue_arguments", {**FULL, "x-max-length": 1})
    for name in ("high", "default", "low"):
        queue = current_app.amqp.queues[name].bind(broker.default_channel)
        queue.delete()
        queue.declare()  # the relay's connection may think that it has done so


def jobs_in(broker: Connection, name: str) -> list[str]:
    """Takes them out."""
    queue = Queue(name, channel=broker.default_channel)
    return [message.headers["id"] for message in iter(lambda: queue.get(no_ack=True), None)]


def record_in_each_queue() -> dict[str, list[str]]:
    """Two in each, by turns."""
    recorded: dict[str, list[str]] = {"high": [], "default": [], "low": []}
    for queue in [*recorded] * 2:
        recorded[queue].append(lab_nothing.apply_async(queue=queue).id)
    return recorded


def test_a_queue_that_refuses_for_now_holds_up_no_other_and_gets_its_jobs_when_it_has_room(
    relay: Relay, broker: Connection, small_queue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.jobs.relay.LEAVE_ALONE", 0)
    recorded = record_in_each_queue()
    assert [relay.publish_due() for _ in range(3)] == [5, 0, 0]
    assert jobs_in(broker, "high") == recorded["high"]
    assert jobs_in(broker, "low") == recorded["low"]
    [refused] = Job.objects.filter(state=Job.State.QUEUED)
    assert str(refused.pk) == recorded["default"][1]
    assert jobs_in(broker, "default") == recorded["default"][:1]
    assert relay.publish_due() == 1
    assert jobs_in(broker, "default") == recorded["default"][1:]


def test_a_job_that_is_refused_stays_as_old_as_it_is(relay: Relay, small_queue: None) -> None:
    lab_nothing.delay_many([{}] * 3)
    due = dict(Job.objects.values_list("pk", "run_at"))
    assert relay.publish_due() == 1
    assert dict(Job.objects.values_list("pk", "run_at")) == due
    assert set(Job.objects.filter(state=Job.State.QUEUED).values_list("attempts", "retries")) == {(0, 0)}


def test_a_queue_that_refuses_is_left_alone_for_a_while(
    relay: Relay, broker: Connection, small_queue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.jobs.relay.LEAVE_ALONE", 0.5)
    waits: list[float] = []
    monkeypatch.setattr(relay.ear, "wait", waits.append)
    asked = Mock(wraps=relay._publish_one)
    monkeypatch.setattr(relay, "_publish_one", asked)
    lab_nothing.delay_many([{}] * 4)
    relay._turn()
    taken = set(Job.objects.values_list("pk", "sent_at"))
    relay._turn()
    assert asked.call_count == 2, "the second was refused, and so would be the third"
    assert set(Job.objects.values_list("pk", "sent_at")) == taken
    assert waits == [POLL_EVERY]
    jobs_in(broker, "default")
    assert wait_for(lambda: relay.publish_due() == 1, 5, every=0.05)


def test_a_confirmation_that_comes_late_is_not_taken_for_the_next_messages(
    server: RabbitMQServer, broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(broker, "roomy", {})
    declare(broker, "full", FULL)
    publish(broker, "roomy")
    with monkeypatch.context() as impatient:
        impatient.setattr(rabbitmq, "CONFIRM_WITHIN", 0.5)
        for process in family(server):
            process.suspend()
        try:
            with pytest.raises(TimeoutError):
                publish(broker, "roomy")
        finally:
            for process in family(server):
                process.resume()
    with pytest.raises(MessageNacked):
        publish(broker, "full")


def test_a_worker_does_not_wait_for_a_frozen_broker_to_confirm_its_events(
    server: RabbitMQServer, broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "CONFIRM_WITHIN", 0.5)
    events = current_app.events.Dispatcher(broker, buffer_while_offline=False)
    events.send("worker-online")
    queue = Queue("listener", events.exchange, routing_key="#", channel=broker.channel())
    queue.declare()
    for process in family(server):
        process.suspend()
    try:
        events.send("worker-heartbeat")
    finally:
        for process in family(server):
            process.resume()
    events.send("worker-offline")
    arrived: list[str] = []
    assert wait_for(lambda: len(took(arrived, queue)) == 2, 5)
    assert arrived == ["worker-heartbeat", "worker-offline"]


def took(arrived: list[str], queue: Queue) -> list[str]:
    arrived += [message.payload["type"] for message in iter(lambda: queue.get(no_ack=True), None)]
    return arrived


def test_an_event_beside_confirmed_messages_is_confirmed_itself(broker: Connection) -> None:
    """Its confirmation would be taken for that of a message that is refused."""
    declare(broker, "full", FULL)
    declare(broker, "roomy", {})
    events, producer = current_app.events.Dispatcher(broker, buffer_while_offline=False), Producer(broker)
    events.send("worker-heartbeat")
    producer.publish("", routing_key="roomy")
    events.send("worker-heartbeat")
    with pytest.raises(MessageNacked):
        producer.publish("", routing_key="full")


def test_the_mark_has_copies_on_other_nodes(broker: Connection) -> None:
    memory = RabbitMQMemory(broker)
    memory.remember("this run")
    assert memory.remembers("this run")
    assert not memory.remembers("another run")
    # RabbitMQ refuses to declare a queue as of another kind than it is.
    arguments = {"x-queue-type": "quorum", "x-expires": rabbitmq.MARK_EXPIRES}
    declare(broker, rabbitmq._mark("this run"), arguments)


def test_a_queue_of_what_was_given_up_stays_as_an_earlier_version_declared_it(broker: Connection) -> None:
    broker.default_channel.queue_delete(GIVEN_UP)
    declare(broker, GIVEN_UP, {"x-queue-type": "quorum", "x-delivery-limit": 30})
    assert list(RabbitMQMemory(broker).given_up()) == []


@pytest.mark.parametrize(("version", "limit"), [("3.13.7", None), ("4.1.0", -1)])
def test_what_was_given_up_is_not_dropped_for_going_back_too_often(version: str, limit: int | None) -> None:
    made = RabbitMQMemory(Mock())
    made.broker.default_channel.connection.server_properties = {"version": version}
    assert made._given_up_arguments().get("x-delivery-limit") == limit
