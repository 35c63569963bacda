"""What never became a task call: messages that Celery's worker drops, or that make it exit.

Problem. A body that is not what Celery expects makes the worker process exit, again and again, with the message still
in the queue; other bad messages are logged and gone. An unknown task is "ignored and discarded".

Guarantee. Every message is checked before Celery touches it. A bad one is kept as a dead letter, and acknowledged only
when the letter is written; if the database is away it goes back to the queue, later. So is the message of a broker-only
job that was delivered `DELIVERY_LIMIT` times and never acknowledged, because it kills its workers. A durable job whose
task this worker does not know (old code, new job) is handed back, for a bounded time.

Not guaranteed. Envelopes that kombu itself cannot read are made readable by the transports (`apps.jobs.envelope`).
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import current_app
from celery.exceptions import InvalidTaskError
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from django.db import DatabaseError, InterfaceError
from kombu.exceptions import ContentDisallowed, DecodeError

from apps.jobs import claims, connections, dead_letters, endings, lease, rescue
from apps.jobs.claims import Claims
from apps.jobs.envelope import UNREADABLE, deliveries_before
from apps.jobs.failures import Failure, Kind, plain
from apps.jobs.ids import job_id_of
from config.broker import DELIVERY_LIMIT

logger = logging.getLogger(__name__)

# The main process has other messages to serve: it does not wait long for a database (seconds).
PATIENCE = 2.0
# What a worker tells of its jobs (Flower, metrics) leaves in batches. Celery publishes it after each step of a job,
# which took the main process almost as long as all else that it does for the job.
EVENTS_EVERY = 0.1

# PostgreSQL's largest integer.
MOST_RETRIES = 2**31 - 1


class BadMessage(ValueError):
    """The message is not a task call."""


class JobConsumer(Consumer):
    next_flush = 0.0

    class Blueprint(Consumer.Blueprint):
        # Where the queues are quorum queues, Celery declares 28 more for countdowns. Ours wait in the ledger.
        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in str(step)]

    def __init__(self, on_task_request: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(on_task_request, **options)
        self.claims: Claims | None = None
        if self.hub:
            self.claims = Claims(self, on_task_request)
            self.on_task_request: Callable[[Any], Any] = self.claims.on_task_request
            endings.batch.timer = self.timer

    def on_close(self) -> None:
        """The connection is lost. Celery forgets what has not begun; claimed, it would be ours for a lease.

        What the pool runs all the same stays ours, and its lease is renewed. The rest is any worker's.
        """
        waiting = claims.waiting()
        kept = [request for request in tuple(state.reserved_requests) if request.is_with_pool]
        if self.claims is not None:
            self.claims.forget()
        # Celery keeps what is active. It reads meanwhile what the children have reported: what ends by that goes.
        state.active_requests.update(kept)
        super().on_close()
        state.active_requests.difference_update([request for request in kept if not request.time_start])
        claims.hand_back(waiting)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> Any:
            try:
                check(message)
                if comes_for_ever(message):
                    return self.bury(message, Failure.delivered_too_often())
                return handle(message)
            except (BadMessage, ContentDisallowed) as exc:
                self.bury(message, undecodable(exc))
            except Exception as exc:  # whatever is wrong with a message, the worker must outlive it
                logger.exception("A message cannot be used")
                self.bury(message, undecodable(exc))

        return on_message

    def call_soon_ack(self, settle: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Acknowledge or reject now, as Celery does without an event loop; with one, it means the loop's next turn.

        That frees the slots for what comes next. Where jobs end in a timer, all those that were gathered do, the loop's
        next turn comes after a sleep.
        """
        if self.hub and threading.current_thread() is threading.main_thread():
            return settle(*args, **kwargs)
        return super().call_soon_ack(settle, *args, **kwargs)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.bury(message, undecodable(BadMessage("The message does not name a task.")))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        if message.headers.get("ledger"):
            self._hand_back(message)
        else:
            self.bury(message, Failure.unknown_task(*exc.args))

    def _hand_back(self, message: Any) -> None:
        job_id = job_id_of(message.headers["id"])
        try:
            connections.patiently(lambda: rescue.hand_back_unknown(job_id), PATIENCE)
        except (DatabaseError, InterfaceError):
            lease.requeue_later(message, self.connection_errors)
        else:
            message.ack_log_error(logger, self.connection_errors)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.bury(message, undecodable(exc))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.bury(message, undecodable(exc))

    def bury(self, message: Any, failure: Failure) -> None:
        """Store the letter first, then acknowledge. Never leave it unacknowledged: it would hold a prefetch slot."""
        try:
            connections.patiently(lambda: dead_letters.write_for_message(message, failure), PATIENCE)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("The dead letter of a message cannot be written yet: %s", str(error).strip())
            lease.requeue_later(message, self.connection_errors)
        else:
            logger.error("Dead letter for a message that cannot be run: %s", failure.message)
            message.ack_log_error(logger, self.connection_errors)

    def on_send_event_buffered(self) -> None:
        """By the clock and not by a flag: the timer may go with a connection, and the next event must set it again."""
        now = time.monotonic()
        if self.hub and now >= self.next_flush:
            self.next_flush = now + EVENTS_EVERY
            self.timer.call_after(EVENTS_EVERY, self._flush_events)

    def ensure_connected(self, conn: Any) -> Any:
        """Celery waits here for a broker that is away, and its timer with it: leases would run out meanwhile.

        One of its timers looks whether a child that has just been started has reported. Nobody listens to children now,
        and Celery takes that for an error of its own, over which it would exit.
        """
        ensure = conn.ensure_connection

        def while_timers_run(errback: Any, max_retries: Any, callback: Callable[[], Any]) -> Any:
            def between_two_tries() -> None:
                callback()
                if self.hub:
                    self._fire_timers()

            return ensure(errback, max_retries, callback=between_two_tries)

        conn.ensure_connection = while_timers_run
        return super().ensure_connected(conn)

    def _fire_timers(self) -> None:
        """What these set is older than the connection. As its own, Celery would cancel it when that is lost."""
        before = self._timer_entries()
        with suppress(AssertionError):
            self.hub.fire_timers()
        self.timer_entries_before_start |= self._timer_entries() - before

    def _timer_entries(self) -> set[Any]:
        return {scheduled.entry for scheduled in self.hub.timer.queue}

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError:
            # Celery 5.7.0 closes the channel twice; the second time kombu has no client to restore the unacknowledged
            # with, and the worker would exit. They come back after the visibility time-out.
            logger.debug("The broker's channel was closed twice", exc_info=True)


def undecodable(exc: Exception) -> Failure:
    return Failure.of(exc, kind=Kind.UNDECODABLE)


def check(message: Any) -> None:
    """Raise `BadMessage`, or kombu's own error, unless Celery's worker can take this message without harm."""
    headers = message.headers
    if message.content_type == UNREADABLE:
        raise BadMessage(str(headers.get("reason")))
    if not isinstance(headers, dict):
        raise BadMessage("The message has no headers.")
    if "task" in headers:
        _check_headers(headers)
        payload = _decoded(message)
    else:
        payload, headers = _translated(message)
        _check_headers(headers)
    _check_body(payload)
    if _is_to_get_a_row(headers):
        _check_values(payload)


def _translated(message: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments and the headers that Celery makes of its first protocol, in which the body names the task."""
    body = _decoded(message)
    if not isinstance(body, dict) or "task" not in body:
        raise BadMessage("The message does not name a task.")
    translate = hybrid_to_proto2 if "args" in body else proto1_to_proto2
    try:
        payload, headers, _, _ = translate(message, body)
    except InvalidTaskError as exc:
        raise BadMessage(str(exc)) from exc
    return payload, headers


def comes_for_ever(message: Any) -> bool:
    """The ledger counts its own jobs' crashes. RabbitMQ gives up by itself, and the relay finds what it gave up on."""
    return deliveries_before(message.headers) >= DELIVERY_LIMIT and not message.headers.get("ledger")


def _check_headers(headers: dict[str, Any]) -> None:
    for name in ("task", "id"):
        if not isinstance(headers.get(name), str) or not headers[name]:
            raise BadMessage(f"The header {name!r} is {headers.get(name)!r}, not a name.")
    limits = headers.get("timelimit")
    if limits is not None and not _is_pair_of_seconds(limits):
        raise BadMessage(f"The header 'timelimit' is {limits!r}, not two numbers.")
    retries = headers.get("retries")
    if retries is not None and not (isinstance(retries, int) and 0 <= retries <= MOST_RETRIES):
        raise BadMessage(f"The header 'retries' is {retries!r}, not a number of retries.")
    for name in ("id", "root_id", "parent_id", "group"):
        _check_id(name, headers.get(name))


def _check_id(name: str, value: Any) -> None:
    """It becomes a job's id, together with those of other messages: what is wrong with one must not stop them all."""
    if value is not None and not (isinstance(value, str) and plain(value) == value):
        raise BadMessage(f"The header {name!r} is {value!r}, not an id.")


def _is_pair_of_seconds(limits: Any) -> bool:
    return (
        isinstance(limits, list | tuple)
        and len(limits) == 2
        and all(limit is None or isinstance(limit, int | float) for limit in limits)
    )


def _decoded(message: Any) -> Any:
    try:
        return message.payload
    except ContentDisallowed:
        raise
    except (DecodeError, ValueError, LookupError, RecursionError, TypeError) as exc:
        raise BadMessage(f"The body cannot be decoded: {exc}") from exc


def _check_body(payload: Any) -> None:
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        raise BadMessage("The body is not a list of arguments, keyword arguments and options.")
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple):
        raise BadMessage("The arguments are not a list.")
    if not isinstance(kwargs, dict):
        raise BadMessage("The keyword arguments are not a mapping.")
    if embed is not None and not isinstance(embed, dict):
        raise BadMessage("The options are not a mapping.")


def _is_to_get_a_row(headers: dict[str, Any]) -> bool:
    """A message of a durable task, from a producer that does not know the ledger."""
    return not headers.get("ledger") and getattr(current_app.tasks.get(headers["task"]), "durable", False)


def _check_values(payload: Any) -> None:
    arguments = list(payload[:2])
    if dead_letters.storable(arguments) != arguments:
        raise BadMessage("The arguments hold a character or a number that PostgreSQL cannot store.")
    _check_continuations(payload[2] or {})


def _check_continuations(embed: dict[str, Any]) -> None:
    """They are read when the job ends, and what is wrong with them then would keep it from ending."""
    for name in ("callbacks", "errbacks", "chain"):
        listed = embed.get(name)
        if listed is not None and not (isinstance(listed, list | tuple) and all(map(_is_signature, listed))):
            raise BadMessage(f"The option {name!r} is not a list of signatures.")
    if embed.get("chord") is not None and not _is_signature(embed["chord"]):
        raise BadMessage("The option 'chord' is not a signature.")


def _is_signature(value: Any) -> bool:
    """As far as it can be told: a stranger may leave out what Celery always writes."""
    if not isinstance(value, dict) or not isinstance(value.get("task"), str):
        return False
    shapes = {"args": list | tuple, "kwargs": dict, "options": dict}
    return all(isinstance(value[name], shape) for name, shape in shapes.items() if value.get(name) is not None)
