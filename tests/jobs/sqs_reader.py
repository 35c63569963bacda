"""A process that reads a queue and takes its time: `python -m tests.jobs.sqs_reader QUEUE BOOK`."""

import sys
import time
from typing import Any

import django

VISIBILITY = 2


def main(queue: str, book: str) -> None:
    from apps.jobs.sqs_consumer import SqsConsumer
    from tests.acceptance.misbehaviour import write

    def handle(told: Any) -> None:
        write(book, "start", told["name"])
        time.sleep(told["seconds"])
        write(book, "end", told["name"])

    write(book, "ready", queue)
    SqsConsumer(queue, handle, visibility=VISIBILITY, wait=1).run()


if __name__ == "__main__":
    django.setup()
    main(*sys.argv[1:])
