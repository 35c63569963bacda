"""The relay: moves due jobs from the ledger to the broker, and rescues lost ones.

Problem. A request that publishes to a broker waits for the broker, and what it published may be lost.

Guarantee. Every due job of a queue that is not paused is published, in batches, within a transaction: a broker that is
away leaves the rows queued, and costs nobody but the relay; a queue that refuses for now holds up no other. Any number
of relays may run: SKIP LOCKED shares the work.

Not guaranteed. A relay that dies between publishing and its commit publishes those jobs again; the claim drops the
second message. One that is frozen there keeps them from the others for two minutes.
"""

import logging
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery
from django.conf import settings
from django.db import connection, transaction
from kombu.exceptions import BatchPublishError
from kombu.exceptions import OperationalError as BrokerError
from kombu.pools import producers

from apps.jobs import connections, ledger, pull, rescue, sensitive
from apps.jobs.broker import BrokerWatch
from apps.jobs.brokers.refusal import MessageRefused, NoRoom
from apps.jobs.failures import Failure
from apps.jobs.health.heartbeats import Heart
from apps.jobs.ledger import Due
from apps.jobs.metrics import counts, samples
from apps.jobs.metrics.broker_memory import memory
from apps.jobs.models import Heartbeat
from apps.jobs.options import of_the_caller
from apps.jobs.transport import Channel as RedisChannel
from apps.jobs.wakeup import Ear

logger = logging.getLogger(__name__)

# Large enough that the round trips do not count, small enough that a commit is quick.
BATCH = 500
# If a notification is lost, or run_at was changed by hand, a job waits this long at most.
POLL_EVERY = 1.0
# The shortest wait (seconds): workers empty a full window in this time at the very quickest.
LOOK_AGAIN = 0.02
# While the broker is away, try again after 0.2 s, 0.4 s … at most this long: when it returns, jobs flow at once.
LONGEST_BACKOFF = 2.0
# A queue that refuses is left alone so long (seconds): each try takes a batch and puts it back, which writes every row
# of it twice. It costs a queue whose limit is small: its workers get no more than that limit in this time.
LEAVE_ALONE = 2.0


class Relay:
    def __init__(self, app: Celery, queues: Sequence[str] = ()) -> None:
        """All queues, unless some are named."""
        self.app = app
        self.queues = list(queues or settings.JOBS_QUEUES)
        self.watch = BrokerWatch(app)
        self.leases = rescue.LeaseWatch()
        self.ear = Ear()
        # kombu would go on trying to connect for seconds, and the rows of the batch are locked meanwhile.
        broker = app.connection_for_write(transport_options={"max_retries": 0})
        self.producers = producers[broker]
        kombu_errors = (BrokerError, BatchPublishError)
        self.broker_errors = (*kombu_errors, OSError, *broker.connection_errors, *broker.channel_errors)
        self.stopping = False
        self.failures = 0
        # Until when (by the monotonic clock) each queue that refuses is left alone.
        self.full: dict[str, float] = {}
        self.next_rescue = 0.0
        self.next_sample = 0.0
        self.heart = Heart(Heartbeat.Process.RELAY)

    def run(self) -> None:
        """Until SIGTERM or SIGINT, which let the batch at hand finish."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        logger.info("Relay started, for the queues %s", ", ".join(self.queues))
        while not self.stopping:
            try:
                self.heart.beat()
                self._turn()
            except connections.LOST as exc:
                logger.warning("The database is away: %s", str(exc).strip())
                connection.close()
                time.sleep(self._backoff())
        self._take_leave()
        logger.info("Relay stopped")

    def _take_leave(self) -> None:
        """Without the database there is nobody to take it from."""
        counts.write()
        with suppress(*connections.LOST):
            self.heart.stop()

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _turn(self) -> None:
        try:
            moved = self.run_once()
        except self.broker_errors as exc:
            logger.warning("The broker is away, jobs wait in the ledger: %s", exc)
            self.heart.trouble = "The broker is away."
            time.sleep(self._backoff())
            return
        self.failures, self.heart.trouble = 0, ""
        if not moved and not self.stopping:
            self._wait()

    def _backoff(self) -> float:
        self.failures = min(self.failures + 1, 6)
        longest: float = min(LONGEST_BACKOFF, 0.1 * 2**self.failures)
        return random.uniform(0.5, 1.0) * longest

    def run_once(self) -> int:
        """Look around and rescue if it is time to; then publish one batch. Returns how many jobs were published."""
        # Before the broker is asked anything: a queue that grows while it is away is what a person will look for.
        if time.monotonic() >= self.next_sample:
            samples.take()
            self.next_sample = time.monotonic() + samples.EVERY
        counts.write_if_due()
        if time.monotonic() >= self.next_rescue:
            # First, for what cannot be found out now must not keep the next turn from publishing.
            self.next_rescue = time.monotonic() + settings.JOBS_RESCUE_EVERY.total_seconds()
            self.rescue()
        return self.publish_due()

    def publish_due(self) -> int:
        """What the broker has no room for goes back to its place, and is as old as it was."""
        now = time.monotonic()
        self.full = {queue: until for queue, until in self.full.items() if until > now}
        with transaction.atomic():
            due = ledger.take_due(self._open(), BATCH)
            sent = self._publish(due) if due else []
            if len(sent) < len(due):
                pull.put_back({job.id for job in due} - {job.id for job in sent})
        for job in sent:
            counts.count("sent", job.task, job.queue)
        return len(sent)

    def _open(self) -> list[str]:
        return [queue for queue in self.queues if queue not in self.full]

    def _publish(self, due: Sequence[Due]) -> list[Due]:
        """Returns those that the broker has taken. The others are dead, or still to be put back."""
        messages = list(self._messages(due))
        with self.producers.acquire(block=True) as producer:
            if isinstance(producer.channel, RedisChannel):
                producer.channel.push((message, job.queue, job.priority) for job, message in messages)
                return [job for job, _ in messages]
            with producer.batch():
                return [job for job, message in messages if self._offer(producer, job, message)]

    def _messages(self, due: Sequence[Due]) -> Iterator[tuple[Due, Any]]:
        for job in due:
            try:
                yield job, as_message(self.app, job)
            except Exception as exc:  # noqa: BLE001 - a row that cannot become a message must not stop the others
                rescue.bury_without_message(job.id, Failure.of(exc))

    def _offer(self, producer: Any, job: Due, message: Any) -> bool:
        """Whether the broker has taken it."""
        if job.queue in self.full:  # since this batch began
            return False
        try:
            self._publish_one(producer, job, message)
        except NoRoom as exc:
            logger.warning("Jobs of the queue %s wait in the ledger: %s", job.queue, exc)
            self.full[job.queue] = time.monotonic() + LEAVE_ALONE
            return False
        except MessageRefused as exc:
            rescue.bury_without_message(job.id, Failure.of(exc))
            return False
        return True

    def _publish_one(self, producer: Any, job: Due, message: Any) -> None:
        queue = self.app.amqp.queues[job.queue]
        self.app.amqp.send_task_message(producer, job.task, message, queue=queue, priority=job.priority, retry=False)

    def rescue(self) -> None:
        """Three ways to lose a job, each found by what it leaves behind: a dead lease, a changed broker, silence."""
        expired = self.leases.look()
        if expired:
            logger.warning("Handed on %d jobs whose worker is gone", expired)
        if expired >= rescue.AT_ONCE:
            self.next_rescue = 0.0  # there are more, of a worker that ran hundreds: in the next turn, after a batch
        lost = self.watch.resend_lost()
        if lost:
            logger.warning("Sent %d jobs again that the broker lost", lost)
        self.heart.seen = memory(self.app)

    def _wait(self) -> None:
        """Sleep until something is recorded, or the next job is due, or the poll."""
        due_in = ledger.next_due(self._open())
        # Overdue, and yet there was nothing to publish: another relay has it, or the broker's window is full.
        self.ear.wait(POLL_EVERY if due_in is None else min(POLL_EVERY, max(LOOK_AGAIN, due_in)))


def as_message(app: Celery, job: Due) -> Any:
    """The job as Celery's own task message (protocol 2).

    `ledger` tells the worker that there is a row to claim, `due` since when it waits. A row that was written by an
    earlier version may have an attempt's token among its headers.
    """
    options = dict(job.options)
    headers = {**of_the_caller(options.pop("headers", {})), "ledger": True, "due": job.due}
    message = app.amqp.as_task_v2(
        str(job.id),
        job.task,
        job.args,
        job.kwargs,
        retries=job.retries,
        callbacks=options.pop("link", None),
        errbacks=options.pop("link_error", None),
        root_id=job.root_id and str(job.root_id),
        parent_id=job.parent_id and str(job.parent_id),
        argsrepr=options.pop("argsrepr", None) or sensitive.masked_repr(job.args),
        kwargsrepr=options.pop("kwargsrepr", None) or sensitive.masked_repr(job.kwargs),
        # Celery's default here is False, which would overrule the task.
        ignore_result=options.pop("ignore_result", None),
        create_sent_event=False,
        **options,
    )
    message.headers.update(headers)
    return message
