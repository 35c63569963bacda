"""Handles the messages of an SQS queue. `manage.py sqs_consume supplier-changes.fifo`.

Problem. The usual loop receives, handles and deletes. A message that takes longer than its visibility time-out is
handled twice at once; one that cannot be read comes back for ever, or is deleted unread; a deploy leaves the rest of
the batch invisible for minutes.

Guarantee. A message is deleted after its handler has returned, or its dead letter is written, and not before. While it
waits or is handled, a thread keeps it ours; if that fails, we neither delete it nor bury it, because somebody else has
it now. An error brings it back later, a few times; then, and at once for a body that is no JSON, it is a dead letter,
whose replay sends it again. What kills its consumer every time is put into the dead-letter queue by SQS, and becomes a
letter from there. At SIGTERM the message at hand is finished, the rest of its batch given back at once.

Not guaranteed. A message may be handled twice: by a consumer that was killed between its handler's end and the delete,
by one that was frozen, by SQS itself. Handlers must bear that. A handler that never returns loses its message after
`CELERY_TASK_TIME_LIMIT`, but keeps this process. SQS counts deliveries and not tries, so a redrive policy of fewer than
five is too strict.
"""

import json
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connection

from apps.jobs import connections, dead_letters
from apps.jobs.failures import Failure, Kind
from apps.jobs.health import heartbeat_file
from apps.jobs.ids import job_id_of
from apps.jobs.models import DeadLetter
from apps.jobs.sqs import MAX_BATCH, MAX_BODY, Message, Queue, QueueUnavailable, Unusable

logger = logging.getLogger(__name__)

Handler = Callable[[Any], None]

# The task that sends a message again: its name stands in the letter, and `replay` starts it as it starts any other.
RESEND = "tasks.send_sqs_message"
# Seconds that a message is ours for. Short, so that a killed consumer's messages are soon somebody else's.
VISIBILITY = 60
EXTENSIONS_PER_VISIBILITY = 3
# As long as a deploy can wait for an idle consumer; SQS would allow 20, and each request costs money.
LONG_POLL = 10
# A failed message comes back after 2, 4, 8 … seconds, at most a quarter of an hour.
LONGEST_BACKOFF = 900
# How often one of us looks what SQS has put into the dead-letter queue (seconds).
COLLECT_EVERY = 10.0
# While SQS or the database is away (seconds).
TRY_AGAIN = 2.0


class Held:
    """The messages that are ours now, kept so by a thread."""

    def __init__(self, queue: Queue, visibility: int) -> None:
        self.queue = queue
        self.visibility = visibility
        self._until: dict[Message, float] = {}
        self._give_up_at = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def keeping(self, messages: Sequence[Message], since: float) -> Iterator[None]:
        self._until = dict.fromkeys(messages, since + self.visibility)
        over = threading.Event()
        keeper = threading.Thread(target=self._keep_until, args=[over], name="sqs-visibility", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()

    def has(self, message: Message) -> bool:
        """By our own clock: a process that was frozen learns nothing from SQS until it asks."""
        return time.monotonic() < self._until.get(message, 0.0)

    def begin(self) -> None:
        """The handler of the next message starts: for so long we wait for it."""
        self._give_up_at = time.monotonic() + settings.CELERY_TASK_TIME_LIMIT

    def delete(self, message: Message) -> None:
        self.queue.delete(message)
        self._forget([message])

    def give_back(self, messages: Sequence[Message], seconds: int = 0) -> None:
        """Others may have them in so many seconds."""
        ours = [message for message in messages if self.has(message)]
        self._forget(ours)  # first, or the thread would keep them after all
        self.queue.keep(ours, seconds)

    def _forget(self, messages: Sequence[Message]) -> None:
        with self._lock:
            for message in messages:
                self._until.pop(message, None)

    def _keep_until(self, over: threading.Event) -> None:
        while not over.wait(self.visibility / EXTENSIONS_PER_VISIBILITY):
            try:
                self._extend()
            except QueueUnavailable as exc:
                logger.warning("Messages could not be kept: %s", exc)
            except Exception:  # as of a token that expired: without this thread nothing would be kept any more
                logger.exception("Messages could not be kept")

    def _extend(self) -> None:
        with self._lock:
            asked_at, messages = time.monotonic(), list(self._until)
            if asked_at < self._give_up_at:
                heartbeat_file.touch()
                lost = self.queue.keep(messages, self.visibility)
                self._until = {each: asked_at + self.visibility for each in messages if each.id not in lost}


class SqsConsumer:
    def __init__(self, queue: str, handler: Handler, visibility: int = VISIBILITY, wait: int = LONG_POLL) -> None:
        """Raises NoDeadLetterQueue. `visibility` and `wait` in seconds, the first several times the second."""
        self.queue = Queue(queue)
        self.redrive = self.queue.redrive()
        self.handler = handler
        self.held = Held(self.queue, visibility)
        self.wait = wait
        self.stopping = False
        self.next_collection = 0.0
        # Until then some message of a FIFO queue is known to fail: see `_at_most`.
        self.careful_until = 0.0

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        logger.info("Consuming %s", self.queue.name)
        while not self.stopping:
            try:
                self.run_once()
            except (QueueUnavailable, *connections.LOST) as exc:
                logger.warning("Trying again soon: %s", str(exc).strip())
                connection.close()
                time.sleep(TRY_AGAIN)
        logger.info("Stopped consuming %s", self.queue.name)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def run_once(self) -> int:
        """Handle one batch. Returns how many messages it had."""
        heartbeat_file.touch()
        _require_database()
        if time.monotonic() >= self.next_collection:
            self.collect_dead_letters()
            self.next_collection = time.monotonic() + COLLECT_EVERY
        asked_at = time.monotonic()
        messages = self.queue.receive(self._at_most(), self.wait, self.held.visibility)
        if messages:
            with self.held.keeping(messages, since=asked_at):
                self._handle_all(messages)
        return len(messages)

    def _at_most(self) -> int:
        """Those behind a message that fails would be received along with it each time, which SQS counts against them
        although nobody has looked at them. One at a time, it keeps them back."""
        return 1 if time.monotonic() < self.careful_until else MAX_BATCH

    def _handle_all(self, messages: Sequence[Message]) -> None:
        waiting = deque(messages)
        stuck: set[str | None] = set()
        try:
            while waiting and not self.stopping:
                message = waiting.popleft()
                if message.group in stuck:
                    self.held.give_back([message])  # not before the one that failed
                elif not self._handle(message) and message.group:
                    stuck.add(message.group)
        finally:
            self.held.give_back(waiting)

    def _handle(self, message: Message) -> bool:
        """Whether the message is over, this way or that."""
        if not self.held.has(message):
            return False
        self.held.begin()
        try:
            self.handler(_parsed(message))
        except Unusable as exc:
            return self._is_over(message, Failure.of(exc, kind=_kind(exc)))
        except Exception as exc:  # recorded and tried again: one message must not stop those behind it
            # A deadlock or a time-out is such an error, too, and may be this message's own.
            if isinstance(exc, connections.LOST) and not connection.is_usable():
                self._comes_back(message)
                raise
            logger.exception("Message %s failed, delivery %d", message.id, message.receives)
            if message.receives < self.redrive.max_receives:
                return self._comes_back(message)
            return self._is_over(message, Failure.of(exc, kind=Kind.EXHAUSTED))
        return self._is_over(message)

    def _is_over(self, message: Message, failure: Failure | None = None) -> bool:
        if not self.held.has(message):
            logger.warning("Message %s took too long and is somebody else's now", message.id)
            return False
        if failure is not None:
            self._write_letter(message, failure)
        self.held.delete(message)
        return True

    def _comes_back(self, message: Message) -> bool:
        seconds = min(LONGEST_BACKOFF, 2**message.receives)
        if self.queue.is_fifo:
            self.careful_until = time.monotonic() + seconds + self.held.visibility
        self.held.give_back([message], seconds)
        return False

    def collect_dead_letters(self) -> None:
        """What nobody could even fail on: SQS gave up on it, because its consumer died each time."""
        while messages := self.redrive.queue.receive(MAX_BATCH, 0, self.held.visibility):
            for message in messages:
                failure = Failure.worker_lost(f"It was received {message.receives} times, and never settled.")
                self._write_letter(message, failure)
                self.redrive.queue.delete(message)

    def _write_letter(self, message: Message, failure: Failure) -> None:
        """Once, however often it is delivered: the letter's id is the message's."""
        body = dead_letters.storable(message.body[:MAX_BODY])
        kwargs = {"queue": self.queue.name, "body": body, "group": message.group}
        letter = DeadLetter(
            job_id=job_id_of(f"sqs:{self.queue.name}:{message.id}"),
            durable=False,
            task=RESEND,
            kwargs=kwargs,
            queue=self.queue.name,
            attempts=message.receives,
            **failure.as_letter(RESEND),
        )
        DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)


def _require_database() -> None:
    """Raises what Django raises. Nothing is received without it: SQS would count the deliveries."""
    connections.refresh()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _parsed(message: Message) -> Any:
    if len(message.body.encode()) > MAX_BODY:
        raise Unusable(f"The body has {len(message.body.encode()):,} bytes; {MAX_BODY:,} are allowed.")
    try:
        return json.loads(message.body)
    except (ValueError, RecursionError) as exc:
        raise Unusable(f"The body is not JSON: {exc}") from exc


def _kind(exc: Unusable) -> Kind:
    """Of a body that nobody could read, or of one that a handler has refused."""
    return Kind.UNDECODABLE if type(exc) is Unusable else Kind.PERMANENT
