"""The brokers as servers of a test's own: started, restarted, robbed of their messages, handed rubbish."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import boto3
import psycopg
from amqp import Message
from kombu import Connection

from apps.local.children import spawn
from apps.local.places import ROOT
from apps.local.ports import any_port, is_listening
from apps.local.postgres import PostgresServer
from apps.local.rabbitmq import RabbitMQServer
from apps.local.valkey import ValkeyServer
from apps.local.waiting import wait_for
from config.broker import Broker, broker_of
from config.queues import QUEUES

PREFIX = "nightshift-"


class Kind(Protocol):
    """environment: what its processes have to know, beside the address of PostgreSQL."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def restart(self) -> None: ...

    @property
    def is_running(self) -> bool: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    def forget(self) -> None:
        """Lose every message, as nobody means to."""
        ...

    def push(self, item: bytes, queue: str) -> None:
        """Bytes, as they are, where a message should be."""
        ...

    def size(self) -> int:
        """Messages that wait in all queues, as far as the broker tells."""
        ...


def broker(kind: Kind) -> Broker:
    """What config/broker.py makes of it, in an environment like that of its processes."""
    with mock.patch.dict(os.environ, kind.environment):
        return broker_of(kind.environment["CELERY_BROKER_URL"])


def connect(kind: Kind) -> Connection:
    made = broker(kind)
    return Connection(made.url, transport_options=dict(made.options))


def sizes(kind: Kind) -> int:
    with connect(kind) as connection:
        return sum(connection.default_channel._size(queue) for queue in QUEUES)


class Redis:
    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.server = ValkeyServer(folder / "valkey", password="valkey")

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def restart(self) -> None:
        self.server.restart()

    @property
    def is_running(self) -> bool:
        return self.server.is_running

    @property
    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.server.url(), "CELERY_BROKER_URL": self.server.url()}

    def forget(self) -> None:
        with self.server.client() as client:
            client.flushall()

    def push(self, item: bytes, queue: str) -> None:
        with self.server.client() as client:
            client.lpush(queue, item)

    def size(self) -> int:
        return sizes(self)


class RabbitMQ:
    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.server = RabbitMQServer(folder / "rabbitmq", password="rabbitmq")

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def restart(self) -> None:
        self.server.restart()

    @property
    def is_running(self) -> bool:
        return self.server.is_running

    @property
    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": "", "CELERY_BROKER_URL": self.server.url()}

    def forget(self) -> None:
        with connect(self) as connection:
            for queue in QUEUES:
                connection.default_channel.queue_purge(queue)

    def push(self, item: bytes, queue: str) -> None:
        with connect(self) as connection:
            message = Message(item, content_type="application/json", content_encoding="utf-8")
            connection.default_channel.basic_publish(message, routing_key=queue)

    def size(self) -> int:
        with connect(self) as connection:
            channel = connection.default_channel
            return sum(channel.queue_declare(queue, passive=True).message_count for queue in QUEUES)


class PostgreSQL:
    """No server of its own: the ledger's, and no Redis anywhere."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.server = postgres

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def restart(self) -> None:
        self.server.restart()

    @property
    def is_running(self) -> bool:
        return self.server.is_running

    @property
    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": "", "CELERY_BROKER_URL": self.server.url().replace("postgres://", "pgmq://")}

    def forget(self) -> None:
        for queue in QUEUES:
            self._run("SELECT pgmq.purge_queue(%s)", queue)

    def push(self, item: bytes, queue: str) -> None:
        """Its messages are JSON, whoever writes them: what is not goes in as a text."""
        try:
            message = json.dumps(json.loads(item))
        except ValueError:
            message = json.dumps(item.decode("utf-8", "replace").replace("\x00", "?"))
        self._run("SELECT pgmq.send(%s, %s::jsonb)", queue, message)

    def size(self) -> int:
        return sizes(self)

    def _run(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(statement, values)


class SQS:
    """moto's, which keeps its messages in memory: after a restart even the queues are gone."""

    fifo = False

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.folder = folder / "moto"
        self.port = any_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "manage.py", "moto", "--port", str(self.port), "--folder", str(self.folder)]
        self.process = spawn(command, log=self.folder / "moto.log", cwd=ROOT, env={**os.environ, **self.environment})
        assert wait_for(lambda: is_listening(self.port), 60)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "REDIS_URL": "",
            "CELERY_BROKER_URL": "sqs://",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "eu-west-1",
            "BROKER_SQS_PREFIX": PREFIX,
            "BROKER_SQS_FIFO": "1" if self.fifo else "0",
            # moto answers the polls of workers that were killed, too.
            "BROKER_SQS_WAIT_SECONDS": "1",
        }

    def forget(self) -> None:
        self.restart()

    def push(self, item: bytes, queue: str) -> None:
        group = {"MessageGroupId": "rubbish", "MessageDeduplicationId": os.urandom(8).hex()} if self.fifo else {}
        client = self._client()
        url = client.get_queue_url(QueueName=f"{PREFIX}{queue}{'.fifo' if self.fifo else ''}")["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody=item.decode("utf-8", "replace"), **group)

    def size(self) -> int:
        return sizes(self)

    def _client(self) -> Any:
        return boto3.client("sqs", region_name="eu-west-1", endpoint_url=self.environment["AWS_ENDPOINT_URL"])


class FIFO(SQS):
    fifo = True
