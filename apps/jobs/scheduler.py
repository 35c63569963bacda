"""Beat: starts periodic tasks, each tick once, however many beats there are.

Problem. Two beats run everything twice; one beat is down some day, and nobody knows what it missed. Celery's beat
sends a task first and notes so later, so a crash in between repeats it; a slow run is overtaken by the next one.

Guarantee. A tick is one transaction: the job is recorded in it, and the schedule's last run is set. It begins with a
lock on the schedule's row and decides on what stands there, so even two leaders make one job; the job's id is made of
schedule and due time, too. If a beat dies, another one takes over within two seconds. What was missed while none was
up, or while PostgreSQL was away, follows the schedule's `SchedulePolicy`: run once for all, or skip. A tick is skipped
while the job of the last one is live, if the policy says so. An error of one schedule is its own: a dead letter, if it
cannot become a job, and a later try, if its queue is full, if somebody's transaction holds its row or its unique key,
or if the broker of a `durable=False` task is away.

Not guaranteed. A `durable=False` task is published before the commit, so a beat killed right there publishes it again;
it has no row, so it does not count as live. In a time zone that puts its clocks back, a crontab runs in the first of
the two equal hours; use UTC, as config/schedule.py does, or an interval for what may not pause.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from celery.exceptions import QueueNotFound
from django.db import DataError, connection, transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler
from kombu.exceptions import OperationalError as BrokerError
from kombu.utils.json import loads
from psycopg.errors import LockNotAvailable

from apps.jobs import connections, ledger, sensitive
from apps.jobs.backpressure import QueueFull
from apps.jobs.dead_letters import storable
from apps.jobs.failures import Failure, Kind
from apps.jobs.health.heartbeats import Heart
from apps.jobs.leader import IDLE, Leadership
from apps.jobs.models import DeadLetter, Heartbeat, Job, SchedulePolicy
from apps.jobs.ticks import latest_tick, next_tick

logger = logging.getLogger(__name__)

# How often a beat that does not lead, or has no database, tries again: this is the time a take-over takes.
STANDBY_EVERY = 1.0
# Seconds, whatever `--max-interval` says: a leader that is silent for 20 s (`leader.IDLE`) loses the lead.
LONGEST_SLEEP = 10.0
# A full queue, or a broker that is away, is asked again after this many seconds.
PUT_OFF = 5.0
# Two beats on two hosts are less apart than this: a last run that is further in the future was noted by a wrong clock.
CLOCKS_DIFFER = timedelta(minutes=1)
# For a schedule's row that somebody edits, or a unique key that a transaction is about to take: most are over in less.
# The leader may be silent for 20 s (`leader.IDLE`), and each of several schedules may wait.
LOCK_TIMEOUT = "1s"
# What a person can get wrong in the admin, so that the job cannot be made.
UNUSABLE = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, QueueNotFound, DataError)
OPTIONS = ("queue", "exchange", "routing_key", "priority")
KINDS_OF_SCHEDULE = ("interval", "crontab", "solar", "clocked")


class LedgerScheduler(DatabaseScheduler):
    max_interval: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.leadership = Leadership("nightshift.beat")
        self.heart = Heart(Heartbeat.Process.BEAT)
        self.database_is_away = False
        super().__init__(*args, **kwargs)
        self.max_interval = min(self.max_interval, LONGEST_SLEEP)
        broker = self.app.connection_for_write()
        self.broker_errors = (BrokerError, *broker.connection_errors, *broker.channel_errors)

    def setup_schedule(self) -> None:
        """Not yet: it is read in each tick, and the database may be away now."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Run what is due, if this beat leads. Returns in how many seconds it wants to be called again.

        Celery's own keeps a heap in memory, which has to be told of edits and of other beats; here the rows are read.
        """
        try:
            self.heart.beat()
            return self._run_due() if self._leads() else STANDBY_EVERY
        except connections.LOST as exc:
            self._lost_database(exc)
            return STANDBY_EVERY

    def _leads(self) -> bool:
        led = self.leadership.is_held
        leads = self.leadership.hold()
        self.database_is_away = False
        if leads and not led:
            logger.info("This beat leads")
        return leads

    def _lost_database(self, exc: Exception) -> None:
        if not self.database_is_away:
            logger.warning("The database is away, nothing is started: %s", str(exc).strip())
        self.database_is_away = True
        self.leadership.give_up()
        connection.close()

    def enabled_models_qs(self) -> "QuerySet[PeriodicTask]":
        """All of them. The parent leaves out crontabs of other hours, and so forgets what was missed."""
        models: QuerySet[PeriodicTask] = PeriodicTask.objects.filter(enabled=True)
        return models.select_related(*KINDS_OF_SCHEDULE)

    def _run_due(self) -> float:
        waits = [self._attend(model) for model in self.enabled_models_qs()]
        return max(0.0, min([self.max_interval, *waits]))

    def _attend(self, model: PeriodicTask) -> float:
        """Run this schedule if it is due. Returns in how many seconds to look at it again."""
        now = timezone.now()
        try:
            if model.last_run_at and model.last_run_at > now + CLOCKS_DIFFER:
                self._count_anew(model, now)
            due = next_tick(model)
            if due is not None and due <= now:
                due = self.run(model.pk, now)
        except (QueueFull, *self.broker_errors) as exc:
            logger.warning("The schedule %r is put off: %s", model.name, exc)
            return PUT_OFF
        except connections.LOST as exc:
            if not isinstance(exc.__cause__, LockNotAvailable):
                raise
            logger.warning("The schedule %r is put off: a transaction holds what it needs", model.name)
            return PUT_OFF
        except Exception:  # a beat that ended here would start again, come to the same schedule, and run none behind it
            logger.exception("The schedule %r cannot be used", model.name)
            return self.max_interval
        return self.max_interval if due is None else (due - now).total_seconds()

    def _count_anew(self, model: PeriodicTask, now: datetime) -> None:
        """A clock that was wrong when it last ran has been put back. Until then nothing would be due."""
        logger.warning("The schedule %r counts from now, its last run lies in the future", model.name)
        with _brief_transaction():
            PeriodicTask.objects.filter(pk=model.pk, last_run_at=model.last_run_at).update(last_run_at=now)
        model.last_run_at = now

    def run(self, pk: int, now: datetime) -> datetime | None:
        """One tick, in one transaction: start the job or skip it, and note so. Returns when the next one is due."""
        with _brief_transaction():
            model = self.enabled_models_qs().select_for_update(of=("self",)).filter(pk=pk).first()
            due = next_tick(model) if model else None
            if due is None or due > now:
                return due  # another beat was quicker, or someone has edited it
            self._run_locked(model, due, now)
        return next_tick(model)

    def _run_locked(self, model: PeriodicTask, due: datetime, now: datetime) -> None:
        policy = SchedulePolicy.objects.filter(schedule=model).first() or SchedulePolicy(schedule=model)
        latest = latest_tick(model.schedule, due, now, now - policy.late_after)
        why_not = _why_not(policy, latest, now)
        if why_not:
            logger.info("The schedule %r skips its tick of %s: %s", model.name, due, why_not)
        else:
            job_id = self._start(model, due)
            SchedulePolicy.objects.update_or_create(schedule=model, defaults={"last_job_id": job_id})
        self._note(model, latest if model.interval else now, ran=not why_not)

    def _note(self, model: PeriodicTask, at: datetime, *, ran: bool) -> None:
        """By UPDATE: `save()` would count as an edit."""
        model.last_run_at = at
        values: dict[str, Any] = {"last_run_at": at, "total_run_count": F("total_run_count") + int(ran)}
        if model.one_off or model.clocked:
            # It runs once more if it is enabled again: see `_name_of_tick`.
            values |= {"enabled": False, "last_run_at": None}
        PeriodicTask.objects.filter(pk=model.pk).update(**values)

    def _start(self, model: PeriodicTask, due: datetime) -> UUID:
        """The job of this tick. One that cannot be made becomes a dead letter, and the schedule goes on."""
        job_id = uuid5(NAMESPACE_URL, f"nightshift:schedule:{_name_of_tick(model, due)}")
        logger.info("The schedule %r starts %s[%s]", model.name, model.task, job_id)
        try:
            with transaction.atomic():
                return self._record(Call.of(model), job_id)
        except UNUSABLE as exc:
            logger.exception("The schedule %r cannot start %s", model.name, model.task)
            self._bury(model, job_id, exc)
            return job_id

    def _record(self, call: "Call", job_id: UUID) -> UUID:
        task = self.app.tasks.get(call.task)
        if task is None:
            return self._record_unknown(call, job_id)
        result = task.apply_async(call.args, call.kwargs, task_id=str(job_id), **call.options)
        return UUID(result.id)  # of a task with `unique`, perhaps the job that is there already

    def _record_unknown(self, call: "Call", job_id: UUID) -> UUID:
        """Newer code may know it: the workers find out, within the ledger's grace, and then bury it."""
        asked = {name: call.options[name] for name in ("queue", "routing_key") if name in call.options}
        job = ledger.NewJob(
            id=job_id,
            task=call.task,
            args=call.args,
            kwargs=call.kwargs,
            queue=self.app.amqp.router.route(asked, call.task)["queue"].name,
            options={"headers": call.options["headers"]},
        )
        [recorded] = ledger.record([job])
        return recorded.id

    def _bury(self, model: PeriodicTask, job_id: UUID, exc: Exception) -> None:
        failure = Failure.of(exc, kind=Kind.WRONG_ARGUMENTS if isinstance(exc, TypeError) else None)
        secret = getattr(self.app.tasks.get(model.task), "sensitive", ())
        letter = DeadLetter(
            job_id=job_id,
            task=model.task,
            args=storable(_readable(model.args, [])),
            kwargs=sensitive.seal(storable(_readable(model.kwargs, {})), secret),
            queue=model.queue or "",
            **failure.as_letter(model.task),
        )
        DeadLetter.objects.bulk_create([letter], ignore_conflicts=True)

    def close(self) -> None:
        super().close()
        self.leadership.give_up()
        with suppress(*connections.LOST):
            self.heart.stop()


@contextmanager
def _brief_transaction() -> Iterator[None]:
    """A beat that is frozen in it leaves its schedule to the next leader, as it does the lead."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL idle_in_transaction_session_timeout = '{IDLE}'"
            )
        yield


def _name_of_tick(model: PeriodicTask, due: datetime) -> str:
    """The same for every beat: what it is made of stands in the row that is locked.

    A clocked schedule that is enabled again is due when it was before, and a one-off one may be. The job of its last
    run is still in the ledger, so the count of runs has to tell the two ticks apart.
    """
    name = f"{model.name}:{due.isoformat()}"
    return f"{name}:{model.total_run_count}" if model.one_off or model.clocked else name


def _why_not(policy: SchedulePolicy, latest: datetime, now: datetime) -> str | None:
    if policy.missed == SchedulePolicy.Missed.SKIP and now - latest > policy.late_after:
        return f"it was missed by {now - latest}"
    if policy.overlap == SchedulePolicy.Overlap.SKIP and _is_live(policy.last_job_id):
        return f"the last run, {policy.last_job_id}, is not over"
    return None


def _is_live(job_id: UUID | None) -> bool:
    return job_id is not None and Job.objects.filter(pk=job_id, state__in=Job.LIVE).exists()


@dataclass(frozen=True)
class Call:
    """What a schedule asks for, as `apply_async` takes it."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(cls, model: PeriodicTask) -> "Call":
        options = {name: getattr(model, name) for name in OPTIONS if getattr(model, name) is not None}
        if model.expires_:
            options["expires"] = model.expires_
        # As Celery's beat, and django-celery-beat, mark what they send.
        marks = {"periodic_task_name": model.name, "celery_beat_task": True}
        options["headers"] = {**loads(model.headers or "{}"), **marks}
        return cls(model.task, loads(model.args or "[]"), loads(model.kwargs or "{}"), options)


def _readable(text: str, default: Any) -> Any:
    try:
        value = loads(text or "null")
    except ValueError:
        return default
    return value if isinstance(value, type(default)) else default
