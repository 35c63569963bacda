"""The base class of every task: Celery's `Task`, whose jobs live in the ledger.

Problem. `.delay()` in a transaction runs before the commit, or after a rollback; a lost message is a lost job.

Guarantee. `.delay()` of a durable task is one INSERT in the caller's transaction, and touches no broker. In the worker
a job is claimed before its body runs, and its end is written under the claim's token. Retries, canvas, `AsyncResult`
and eager mode are Celery's own.

Not guaranteed. `durable=False` is plain Celery: quick, and lost with the broker. Its failures still become dead
letters.

Follow one job: `apply_async` → `ledger.record` → `Relay.publish_due` → `claims.Claims` → `JobTask.__call__` →
`Attempt.run` → `endings.write_soon` (docs/lifecycle.md has each stop).
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial, wraps
from typing import Any, TypeVar
from uuid import UUID

import celery
from celery import current_task
from celery.app.routes import MapRoute, Router
from celery.exceptions import Ignore, Reject, Retry
from celery.result import AsyncResult
from django.db import transaction

from apps.jobs import (
    chords,
    connections,
    dead_letters,
    lease,
    ledger,
    log_context,
    origin,
    redaction,
    rescue,
    sensitive,
    unique,
)
from apps.jobs.arguments import plain_types
from apps.jobs.attempt import UNDONE, Attempt, readable
from apps.jobs.backpressure import admit
from apps.jobs.failures import Failure, Kind, OutOfMemory, WrongArguments, kind_of
from apps.jobs.ids import job_id_of, uuid7
from apps.jobs.ledger import NewJob
from apps.jobs.models import Job
from apps.jobs.options import aware, carried, expiry, seconds
from apps.jobs.progress import Progress
from apps.jobs.snooze import Snooze

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What `.map()`, `.starmap()` and `.chunks()` start.
MAPS = ("celery.map", "celery.starmap")


class JobResult(AsyncResult):
    """Celery's result, which knows whether this call made the job, or found it there (a refused duplicate)."""

    created = True


def is_new(result: AsyncResult) -> bool:
    """Whether this call made the job. One of Celery's eager results, which do not say, always did."""
    return bool(getattr(result, "created", True))


class JobTask(celery.Task):
    abstract = True

    #: Jobs go through the ledger. False: plain Celery, for work that may be lost.
    durable = True
    #: The body's database work and the job's success commit together: exactly once, for effects in the database.
    #: Not for tasks that call a third party, which would hold the transaction open for as long.
    atomic = False
    #: Names of arguments: at most one live job has the same values in them.
    unique: tuple[str, ...] = ()
    #: The key is held until the job is "started" or "finished"…
    unique_until = "finished"
    #: …or for this long after it was recorded, if that is longer.
    unique_for: timedelta | None = None
    #: Names of arguments that are secret.
    sensitive: tuple[str, ...] = ()

    Request = "apps.jobs.request:JobRequest"

    def __init_subclass__(cls, **options: Any) -> None:
        """A task may have hooks of its own. Celery's do nothing, so who writes one does not think of `super()`."""
        super().__init_subclass__(**options)
        cls._stay_around()

    @classmethod
    def annotate(cls) -> None:
        """Nor has who writes one into `task_annotations`, which are set when the class is there already."""
        super().annotate()
        cls._stay_around()

    @classmethod
    def _stay_around(cls) -> None:
        for name in ("before_start", "on_retry", "on_failure", "after_return"):
            ours, theirs = getattr(JobTask, name), getattr(cls, name)
            if theirs is not ours and not hasattr(theirs, "comes_after"):
                setattr(cls, name, _after(ours, theirs))
        call = cls.__call__
        if call is not JobTask.__call__ and not hasattr(call, "is_body"):
            setattr(cls, "__call__", _as_body(call))  # noqa: B010 - mypy takes an assignment for a mistake

    # --- In the process that asks -------------------------------------------------------------------------------------

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Celery's `apply_async`, with all its options.

        Raises `QueueFull`; TypeError for arguments that do not fit; ValueError for arguments that are not JSON, or that
        PostgreSQL cannot store (`apps.jobs.jsonb`); OverflowError for a time past the year 9999.
        """
        # As Celery: list("7") and list({"order_id": 7}) would be arguments, too, which nobody meant.
        if not isinstance(args or (), list | tuple):
            raise TypeError("task args must be a list or tuple")
        if not isinstance(kwargs or {}, Mapping):
            raise TypeError("task keyword arguments must be a mapping")
        args, kwargs = self.sealed(list(args or ()), dict(kwargs or {}))
        options = {**self._get_exec_options(), **options, "link": link, "link_error": link_error, "shadow": shadow}
        if not self._goes_through_ledger(options):
            return self._publish(args, kwargs, task_id, producer, options)
        self._check_arguments(args, kwargs)
        options["shadow"] = shadow or self.shadow_name(args, kwargs, options)
        job = self.new_job(args, kwargs, task_id, options)
        if task_id and self._is_own_id(job.id):
            # `self.retry` and `self.replace` send the running job itself again: its row is rewritten when it lets go.
            current_task.request.again = job
            return JobResult(str(job.id))
        admit(job.queue)
        [recorded] = ledger.record([job])
        if recorded.id != job.id:
            chords.refused(Job(task=job.task, queue=job.queue, options=job.options), recorded.id)
        return self._result(recorded)

    def delay_many(self, jobs: Iterable[Mapping[str, Any]], **options: Any) -> list[str]:
        """One job for each mapping of keyword arguments, in one round trip and in the caller's transaction.

        Returns the jobs' ids, in order; for an argument that a unique task refuses, the id of the job it has already.
        """
        options = {**self._get_exec_options(), **options}
        if not self._goes_through_ledger(options):
            return [self.apply_async(kwargs=kwargs, **options).id for kwargs in jobs]
        new_jobs = self._new_jobs(jobs, options)
        if not new_jobs:
            return []
        admit(new_jobs[0].queue, len(new_jobs))
        return [str(recorded.id) for recorded in ledger.record(new_jobs)]

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Celery's name, in Django, for what `.delay()` of a durable task does anyway, and loses nothing by."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Of a job without a row, and in eager mode: when the transaction has committed."""
        if self._goes_through_ledger(kwargs):
            self.apply_async(*args, **kwargs)
        else:
            transaction.on_commit(partial(self.apply_async, *args, **kwargs))

    def map(self, it: Iterable[Any]) -> Any:
        self._refuse_to_be_mapped()
        return super().map(it)

    def starmap(self, it: Iterable[Any]) -> Any:
        self._refuse_to_be_mapped()
        return super().starmap(it)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        self._refuse_to_be_mapped()
        return super().chunks(it, n)

    def _refuse_to_be_mapped(self) -> None:
        """The arguments would be those of a task of Celery's own, which does not know that they are secret."""
        if self.sensitive:
            raise ValueError(f"{self.name} has secret arguments, which .map() would write in plain text. Use a group.")

    def _new_jobs(self, jobs: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> list[NewJob]:
        """They differ in their arguments only: all else is found out once."""
        first = self.new_job([], {}, None, options) if not self.unique else None
        made = []
        for kwargs in jobs:
            self._check_arguments([], kwargs)
            args, sealed = self.sealed([], dict(kwargs))
            made.append(
                replace(first, id=uuid7(), kwargs=sealed) if first else self.new_job(args, sealed, None, options)
            )
        return made

    def _goes_through_ledger(self, options: Mapping[str, Any]) -> bool:
        """A chord's parts always do, and what leads to one: the ledger counts them, and knows when one dies."""
        return (self.durable or chords.is_awaited(options)) and not self.app.conf.task_always_eager

    def _publish(
        self, args: list[Any], kwargs: dict[str, Any], task_id: str | None, producer: Any, options: dict[str, Any]
    ) -> AsyncResult:
        """Plain Celery, for a broker-only task: at most one live job a key by a lock, and secrets sealed."""
        task_id = task_id or str(uuid7())
        masked = {"argsrepr": sensitive.masked_repr(args), "kwargsrepr": sensitive.masked_repr(kwargs)}
        key = None if self.app.conf.task_always_eager else self._unique_key(args, kwargs)
        if key is None:
            return super().apply_async(args, kwargs, task_id, producer, **{**masked, **options})
        holder = unique.lock(key, task_id, self._lock_seconds())
        if holder != task_id:
            return JobResult(holder)
        try:
            return super().apply_async(args, kwargs, task_id, producer, **{**masked, **options})
        except BaseException:
            unique.unlock(key, task_id)  # whatever went wrong, nothing was sent: do not refuse the next one
            raise

    def _lock_seconds(self) -> float:
        longest_run = self.time_limit or self.app.conf.task_time_limit
        return self.unique_for.total_seconds() if self.unique_for else float(longest_run)

    def _check_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        if self.typing and hasattr(self, "__header__"):
            self.__header__(*args, **kwargs)

    def sealed(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with the secrets among them encrypted, for which each needs its name."""
        if not self.sensitive:
            return args, kwargs
        return [], sensitive.seal(self._named(args, kwargs), self.sensitive)

    def _named(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, however they were passed."""
        signature = inspect.signature(self.run)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            named |= value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        return named

    def _unique_key(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str | None:
        """Of the plain values, though the arguments have been sealed."""
        if not self.unique:
            return None
        secret = set(self.unique) & set(self.sensitive)
        named = sensitive.comparable(self._named(args, kwargs), secret)
        return unique.key_of(self.name, self.unique, named, is_secret=bool(secret))

    def new_job(
        self, args: list[Any], kwargs: dict[str, Any], task_id: str | None, options: Mapping[str, Any]
    ) -> NewJob:
        parent_id, root_id = self._lineage(options)
        asked_by = origin.current_origin()
        key = self._unique_key(args, kwargs)
        return NewJob(
            id=job_id_of(task_id) if task_id else uuid7(),
            task=self.name,
            args=args,
            kwargs=kwargs,
            queue=self.queue_for(args, kwargs, options),
            options=carried(options, asked_by),
            priority=options.get("priority"),
            run_at=aware(options.get("eta"), self.app),
            delay=seconds(options.get("countdown"), self.app),
            expires_at=expiry(options.get("expires"), self.app),
            retries=options.get("retries") or 0,
            unique_key=key,
            unique_until=self.unique_until if key else None,
            unique_for=self.unique_for.total_seconds() if key and self.unique_for else None,
            owner_id=asked_by.owner_id,
            parent_id=parent_id,
            root_id=root_id,
        )

    def queue_for(self, args: list[Any], kwargs: dict[str, Any], options: Mapping[str, Any]) -> str:
        """By Celery's own router. A queue that does not exist raises `QueueNotFound` here, not silence later."""
        asked = {name: options[name] for name in ("queue", "exchange", "routing_key") if options.get(name)}
        if "queue" not in asked and asked.get("routing_key") in self.app.amqp.queues:
            return str(asked["routing_key"])  # a retry names its queue by the message it came with
        router = self.app.amqp.router
        name = self._routed_as(kwargs, options)
        if asked or not all(isinstance(route, MapRoute) for route in router.routes):
            return str(router.route(asked, name, args, kwargs, self)["queue"].name)
        return _queue_by_name(router, name)

    def _routed_as(self, kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """A map goes where the task would that it maps. Of a chunk Celery does not name it."""
        mapped = kwargs.get("task") if self.name in MAPS else None
        named = mapped.get("task") if isinstance(mapped, dict) else None
        return str(options.get("route_name") or named or self.name)

    def _lineage(self, options: Mapping[str, Any]) -> tuple[UUID | None, UUID | None]:
        """Parent and root: as canvas says, else the job that is running here."""
        parent, root = options.get("parent_id"), options.get("root_id")
        running = self.app.current_worker_task
        if running is not None and not parent:
            parent, root = running.request.id, root or running.request.root_id
        return parent and job_id_of(parent), root and job_id_of(root)

    def _is_own_id(self, job_id: UUID) -> bool:
        running = self.app.current_task
        request = running.request if running is not None else None
        return request is not None and request.get("token") is not None and job_id_of(request.id) == job_id

    def _result(self, recorded: ledger.Recorded) -> AsyncResult:
        result = JobResult(str(recorded.id), app=self.app)
        result.created = recorded.created
        return result

    # --- In the worker ------------------------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Claim the job, unless that is done. Raises Ignore for a message that means nothing (any more)."""
        request = self.request
        if request.is_eager:
            return
        log_context.working_on(request)
        if not self._in_ledger():
            return
        connections.refresh()
        if request.get("token") is None:
            self._claim_now(job_id_of(task_id), args, kwargs)
        log_context.claimed(request.token)
        headers = request.headers or {}
        origin.working_for(origin.Origin(headers.get("owner_id"), headers.get("request_id")))

    def _claim_now(self, job_id: UUID, args: list[Any], kwargs: dict[str, Any]) -> None:
        """What the main process has not claimed (`apps.jobs.claims`)."""
        try:
            self.request.token = connections.patiently(lambda: self._claim(args, kwargs))
        except connections.LOST as exc:
            raise Reject(f"the ledger cannot be reached: {exc}", requeue=True) from exc
        if self.request.token is None:
            why = connections.patiently(lambda: ledger.refuse(job_id))
            logger.info("Dropped a message for %s[%s]: %s", self.name, job_id, why)
            raise Ignore(why)

    def _in_ledger(self) -> bool:
        return self.durable or bool(self.request.get("ledger"))

    def _claim(self, args: list[Any], kwargs: dict[str, Any]) -> int | None:
        request = self.request
        job_id = job_id_of(request.id)
        if not request.get("ledger"):
            self._adopt(job_id, args, kwargs)
        return ledger.claim({job_id: request.retries}, lease.worker_id()).get(job_id)

    def _adopt(self, job_id: UUID, args: list[Any], kwargs: dict[str, Any]) -> None:
        """A message from a producer that does not know the ledger (Flower, another service): give it a row."""
        options = self.request.as_execution_options()
        options["queue"] = (self.request.delivery_info or {}).get("routing_key")
        args, kwargs = self.sealed(list(args), dict(kwargs))
        ledger.record([self.new_job(args, kwargs, str(job_id), options)])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        if request.get("is_in_body"):
            # It calls itself, as a function: what ends then is not the job. With a request of its own, as Celery has it
            # here, a retry or a replacement that it asks for would be lost.
            return self.run(*args, **kwargs)
        return self._work(self.run, args, kwargs)

    def _work(self, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = self.request
        redaction.hide(self._secrets())
        request.is_in_body = True
        if request.is_eager:
            return self._run_eagerly(body, args, kwargs)
        try:
            self._refuse_wrong_arguments(args, kwargs)
            if request.get("token") is None:
                return self._run(body, args, kwargs)
            return Attempt(self, body).run(args, kwargs)
        except MemoryError as exc:
            raise OutOfMemory(str(exc) or "The task ran out of memory.") from exc
        except (Ignore, Reject, Retry):
            raise
        except Exception as exc:
            request.raised = exc
            raise

    def _run_eagerly(self, body: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """An atomic task's body may need its transaction, and leaves as much behind as in a worker."""
        with transaction.atomic() if self.atomic else nullcontext():
            try:
                return body(*args, **sensitive.unseal(kwargs))
            except Ignore as outcome:
                if isinstance(outcome, UNDONE):
                    raise
                ignored = outcome
        raise ignored

    def _refuse_wrong_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            self._check_arguments(args, kwargs)
            plain = plain_types(self.run)
            if self.typing and plain.expected:
                plain.check(args, sensitive.unseal(kwargs))
        except TypeError as exc:
            raise WrongArguments(str(exc)) from exc

    def _run(self, body: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """A broker-only job: `Snooze` is the same message again, later."""
        try:
            return readable(self, body(*args, **sensitive.unseal(kwargs)))
        except Snooze as exc:
            self.signature_from_request(countdown=exc.seconds).apply_async()
            raise

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, *others: Any, **options: Any) -> Any:
        self.request.raised = exc
        return super().retry(args, kwargs, exc, *others, **options)

    def _raised(self, exc: Any) -> Any:
        """The error itself. Of one that cannot be pickled Celery hands on another, of its parent's class or its own."""
        return self.request.__dict__.pop("raised", None) or exc

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """running → queued. After the body, so that an atomic task's own work is rolled back and this is not."""
        again, exc = self.request.get("again"), self._raised(exc)
        if again:
            # `self.retry()` without an error has none to keep.
            failure = Failure.of(exc, secrets=self._secrets()) if exc else None
            with suppress(ledger.LeaseLost):  # whoever holds the job now will end it
                connections.patiently(lambda: ledger.retry(job_id_of(task_id), self.request.token, again, failure))
            self.request.again = None  # a task's own `on_retry` may call this one again

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """running → dead. Celery calls this in the child, and in the main process after a hard time limit.

        What the body says of a lost database, `Attempt` has dealt with. If it comes here, the attempt's outcome could
        not be written for longer than anybody waits; it was perhaps a success, or a retry.
        """
        if self.request.is_eager:
            return
        job_id, is_here = job_id_of(task_id), self.request.id == task_id
        exc = self._raised(exc) if is_here else exc
        token = self.request.get("token") if is_here else lease.token_of(job_id)
        retries = self.request.retries if is_here else 0
        failure = Failure.of(exc, kind=self._kind(exc, retries), secrets=self.secrets_in(args, kwargs))
        if token is not None and connections.is_lost(exc):
            logger.warning("%s[%s] waits for its lease to run out, the ledger is away", self.name, job_id)
        elif token is not None:
            connections.patiently(lambda: ledger.bury(job_id, token, failure, exc))
        elif is_here and self._in_ledger():
            # `before_start` raised. A broker-only job's letter is written by the main process, see `JobRequest`.
            connections.patiently(lambda: self._failed_before_claim(job_id, failure))

    def _failed_before_claim(self, job_id: UUID, failure: Failure) -> None:
        """What could not be adopted has no row, and its message is used up."""
        if not rescue.failed_before_claim(job_id, failure):
            dead_letters.write_for_unadopted(self.request, failure)

    def _kind(self, exc: BaseException, retries: int) -> Kind | None:
        """Exhausted, if no retry was left for an error that is retried; None: the exception itself says."""
        max_retries = getattr(self, "retry_kwargs", {}).get("max_retries", self.max_retries)
        if kind_of(exc) is not Kind.PERMANENT or max_retries is None or retries < max_retries:
            return None
        retried_for = tuple(getattr(self, "autoretry_for", ()))
        # A task that calls `self.retry` itself does not say for what: it has been retried, and this was the last time.
        is_retried = isinstance(exc, retried_for) if retried_for else retries > 0
        return Kind.EXHAUSTED if is_retried else None

    def secrets_in(self, args: Iterable[Any] | None, kwargs: Mapping[str, Any] | None) -> list[str]:
        """Also of a message whose producer did not seal them, or did not even name them."""
        args, kwargs = args or (), kwargs or {}
        if self.sensitive:
            args, kwargs = sensitive.seal_unnamed(args, self.sensitive), sensitive.seal(kwargs, self.sensitive)
        return sensitive.secrets_in([*args, *kwargs.values()])

    def _secrets(self) -> list[str]:
        return self.secrets_in(self.request.args, self.request.kwargs)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Release a broker-only job's unique lock; a durable job's key went with the row's own transition."""
        if self._in_ledger() or self.unique_for or self.request.is_eager:
            return
        key = self._unique_key(args, kwargs)
        if key is not None:
            unique.unlock(key, task_id)

    def on_replace(self, sig: Any) -> Any:
        """`self.replace(…)`: carried out when the body is over (`Attempt`)."""
        if self.request.get("token") is None:
            return super().on_replace(sig)
        self.request.replacement = sig
        raise Ignore("replaced")

    # --- For the body (bind=True) -------------------------------------------------------------------------------------

    def track(self, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Go through `items` and report how far; stops at a wish to cancel. See `apps.jobs.progress`."""
        return Progress.of(self.request).track(items, total)

    def progress(self, done: int, total: int | None, note: str = "") -> None:
        """Report how far, where there is no list of items to go through."""
        Progress.of(self.request).report(done, total, note)


@cache
def _queue_by_name(router: Router, task: str) -> str:
    """Of a router that knows nothing but names, and so always gives the same answer."""
    return str(router.route({}, task)["queue"].name)


def _after(ours: Callable[..., None], theirs: Callable[..., None]) -> Callable[..., None]:
    @wraps(theirs)
    def hook(self: JobTask, *args: Any, **kwargs: Any) -> None:
        ours(self, *args, **kwargs)
        # The job is claimed by then, and a hook may end it before its body starts, by Ignore or Reject.
        is_attempt = ours is JobTask.before_start and self.request.get("token") is not None
        with Attempt(self, self.run).settled() if is_attempt else nullcontext():
            theirs(self, *args, **kwargs)

    hook.comes_after = ours  # type: ignore[attr-defined]
    return hook


def _as_body(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """A task's own `__call__` often ends in `self.run(…)`: around that, the ledger would never hear of an end."""

    @wraps(theirs)
    def call(self: JobTask, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly or request.get("is_in_body"):
            return theirs(self, *args, **kwargs)
        return self._work(partial(theirs, self), args, kwargs)

    call.is_body = True  # type: ignore[attr-defined]
    return call
