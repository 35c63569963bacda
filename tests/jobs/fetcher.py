"""A consumer for tests to freeze and to kill: notes each message's body in the set `done` and acknowledges it then."""

import sys
from typing import Any

import redis
from kombu import Connection, Consumer, Queue


def main(url: str, transport: str) -> None:
    client = redis.Redis.from_url(url)

    def work(message: Any) -> None:
        client.sadd("done", message.payload)
        message.ack()

    with Connection(url, transport=transport) as connection, connection.channel() as channel:
        channel.basic_qos(0, 10, False)
        with Consumer(channel, [Queue("a")], on_message=work):
            while True:
                say_how_it_goes(connection)


def say_how_it_goes(connection: Any) -> None:
    try:
        connection.drain_events(timeout=0.2)
    except TimeoutError:
        say("waiting")
    else:
        say("worked")


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
