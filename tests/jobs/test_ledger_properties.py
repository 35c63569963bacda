"""The ledger under random interleavings: several connections, some in the middle of a transaction.

The machine does what web requests, relays, workers, operators and the rescue do, with tokens that may be stale, and
after each step looks at what is committed. It knows no order in which things ought to happen, only what must never.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from psycopg.errors import LockNotAvailable

from apps.jobs import ledger, pull, queues, rescue
from apps.jobs.failures import Failure, Kind
from apps.jobs.ledger import LeaseLost, NewJob
from apps.jobs.models import DeadLetter, Job, QueuePause
from tests.jobs.sessions import Session

BROKEN = Failure(Kind.PERMANENT, "Broken", "It broke.")
MAY_FOLLOW = {
    "queued": {"queued", "sent", "running", "dead", "cancelled"},
    "sent": {"sent", "queued", "running", "dead", "cancelled"},
    "running": {"running", "queued", "succeeded", "dead", "cancelled"},
    "succeeded": {"succeeded"},
    "dead": {"dead"},
    "cancelled": {"cancelled"},
}
# How the three connections begin: any of them may open a transaction and leave it open for a while.
SESSIONS = st.integers(0, 2)


# A relay's way to take jobs, and those of a worker without a broker.
TAKES = (ledger.take_due, pull.take, pull.take_silent_too)
INTERFERENCES: dict[str, Callable[[UUID], Any]] = {
    "cancel": ledger.cancel,
    "hurry": lambda job_id: ledger.hurry([job_id]),
    "bury": lambda job_id: ledger.bury(job_id, None, BROKEN),
    "refuse": ledger.refuse,
    "pause": lambda _: queues.pause("default"),
    "resume": lambda _: queues.resume("default"),
    "resend": lambda _: rescue.resend(before=timezone.now() + timedelta(seconds=1)),
    "unknown": rescue.hand_back_unknown,
    "put back": lambda job_id: pull.put_back([job_id]),
}
# A job whose task no worker knows comes again at once, and dies the second time.
UNKNOWN_FOR_NO_TIME: dict[str, Any] = {"JOBS_UNKNOWN_TASK_GRACE": timedelta(0), "JOBS_UNKNOWN_TASK_EVERY": timedelta(0)}

# Two, of which one now and then claims the same job twice in a row: after it had been taken for dead.
WORKERS = (uuid4(), uuid4())


@dataclass(frozen=True)
class Held:
    """What a worker knows of a job that it claimed, now or long ago."""

    job_id: UUID
    token: int
    worker_id: UUID


def a_job(**options: Any) -> NewJob:
    return NewJob(task="tasks.lab_nothing", args=[], kwargs={}, queue="default", **options)


def committed() -> tuple[dict[UUID, dict[str, Any]], list[UUID]]:
    """All jobs, and of which jobs there are letters. After every step: by hand, in a fifth of the ORM's time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM jobs_job")
        columns = [column.name for column in cursor.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        cursor.execute("SELECT job_id FROM jobs_deadletter")
        return {row["id"]: row for row in rows}, [job_id for (job_id,) in cursor.fetchall()]


class LedgerMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    held = Bundle("held")

    def __init__(self, sessions: list[Session]) -> None:
        super().__init__()
        for model in (Job, DeadLetter, QueuePause):
            model.objects.all().delete()
        self.sessions = sessions
        self.seen: dict[UUID, dict[str, Any]] = {}
        self.accepted: set[UUID] = set()
        self.undecided: dict[int, set[UUID]] = {}
        self.claims: set[tuple[UUID, int]] = set()

    def teardown(self) -> None:
        for session in self.sessions:
            if session.is_in_transaction:
                session.rollback()

    @contextmanager
    def _in(self, number: int) -> Iterator[None]:
        """One call of the ledger. If a lock of another's transaction is in its way, it fails and has done nothing."""
        with self.sessions[number].current():
            try:
                with transaction.atomic():
                    yield
            except OperationalError as exc:
                if not isinstance(exc.__cause__, LockNotAvailable):
                    raise

    def _settled(self) -> int:
        """A session without an open transaction, for what is never called in one."""
        return next((number for number, session in enumerate(self.sessions) if not session.is_in_transaction), 2)

    # --- Whoever asks for jobs ----------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 1), commits=st.booleans())
    def begin_or_end(self, number: int, commits: bool) -> None:
        session = self.sessions[number]
        if not session.is_in_transaction:
            session.begin()
            self.undecided[number] = set()
            return
        recorded = self.undecided.pop(number)
        session.commit() if commits else session.rollback()
        assert Job.objects.filter(pk__in=recorded).count() == (len(recorded) if commits else 0)
        self.accepted |= recorded if commits else set()

    @initialize(target=jobs)
    def two_jobs(self) -> Any:
        return multiple(self._record(2, a_job()), self._record(2, a_job()))

    @rule(
        target=jobs,
        number=SESSIONS,
        key=st.sampled_from([None, "a", "b"]),
        until=st.sampled_from(["started", "finished"]),
        period=st.sampled_from([None, 60.0]),
        delay=st.sampled_from([None, None, 60.0]),
    )
    def record(self, number: int, key: str | None, until: str, period: float | None, delay: float | None) -> Any:
        uniqueness = {"unique_key": key, "unique_until": until, "unique_for": period} if key else {}
        job_id = self._record(number, a_job(delay=delay, **uniqueness))
        return multiple() if job_id is None else job_id

    @rule(target=jobs, number=SESSIONS, job_id=jobs)
    def record_again(self, number: int, job_id: UUID) -> Any:
        """A commit whose answer was lost: the same wish, with the same id."""
        assert self._record(number, a_job(id=job_id)) in (job_id, None)
        return multiple()

    def _record(self, number: int, job: NewJob) -> UUID | None:
        """The job that stands for the wish; None, if another's lock was in the way."""
        ids: list[UUID] = []
        with self._in(number):
            [recorded] = ledger.record([job])
            mine = self.undecided.get(number, self.accepted)
            assert recorded.id == job.id if recorded.created else recorded.id in self.seen.keys() | mine
            if recorded.created:
                mine.add(recorded.id)
            ids.append(recorded.id)
        return ids[0] if ids else None

    # --- Relay and operators ------------------------------------------------------------------------------------------

    @rule(number=SESSIONS, limit=st.integers(1, 3), take=st.sampled_from(TAKES))
    def take_due(self, number: int, limit: int, take: Any) -> None:
        with self._in(number), patch.object(pull, "SILENT", timedelta(0)):
            for due in take(["default"], limit):
                row = self.seen.get(due.id)
                may_be = ("queued", "sent") if take is pull.take_silent_too else ("queued",)
                assert row is None or row["state"] in may_be, "nobody publishes what another relay holds"

    @rule(job_id=jobs)
    def put_back(self, job_id: UUID) -> None:
        """Its queue was paused when its message came, or whoever took it does not come to it."""
        was_sent = job_id in self.seen and self.seen[job_id]["state"] == "sent"
        with self._in(self._settled()):
            assert ledger.put_back(job_id) == was_sent

    @rule(job_id=jobs, what=st.sampled_from(sorted(INTERFERENCES)))
    def interfere(self, job_id: UUID, what: str) -> None:
        with self._in(self._settled()), patch.multiple(django_settings, **UNKNOWN_FOR_NO_TIME):
            INTERFERENCES[what](job_id)

    # --- Workers ------------------------------------------------------------------------------------------------------

    @rule(target=held, job_id=jobs, stale=st.sampled_from([0, 0, 0, -1]))
    def claim(self, job_id: UUID, stale: int) -> Any:
        return self._claim(job_id, stale)

    @rule(target=held, held=held)
    def claim_again(self, held: Held) -> Any:
        """A duplicate, or the message of the next attempt."""
        return self._claim(held.job_id, 0)

    def _claim(self, job_id: UUID, stale: int) -> Any:
        row = self.seen.get(job_id, {"retries": 0, "state": "uncommitted"})
        worker_id = WORKERS[len(self.claims) % 3 % 2]
        tokens: dict[UUID, int] = {}
        with self._in(self._settled()):
            tokens = ledger.claim({job_id: row["retries"] + stale}, worker_id)
        if not tokens:
            return multiple()
        assert stale == 0, "a message of an earlier attempt claimed the job"
        assert row["state"] in ("queued", "sent"), f"a job that is {row['state']} was claimed"
        assert (job_id, tokens[job_id]) not in self.claims
        self.claims.add((job_id, tokens[job_id]))
        return Held(job_id, tokens[job_id], worker_id)

    @rule(
        number=SESSIONS,
        held=held,
        what=st.sampled_from(["succeed", "succeed_many", "retry", "snooze", "report", "begin"]),
    )
    def end_attempt(self, number: int, held: Held, what: str) -> None:
        """It changes the job if the token is the job's own; else it raises and changes nothing.

        Only success is ever written in a transaction that goes on: that of an atomic task.
        """
        is_ours = self._is_running_under(held)
        with self._in(number if what == "succeed" else self._settled()):
            try:
                self._end_attempt(held, what)
            except LeaseLost:
                assert not is_ours or self._is_ended_in(number, held), "the holder was refused"
            else:
                assert is_ours, "a stale token was accepted"

    def _end_attempt(self, held: Held, what: str) -> None:
        job_id, token = held.job_id, held.token
        match what:
            case "succeed":
                ledger.succeed(job_id, token, {"by": token})
            case "succeed_many":
                if not ledger.succeed_many([(job_id, token, 0.1)]):
                    raise LeaseLost
            case "retry":
                again = a_job(id=job_id, retries=self.seen[job_id]["retries"] + 1)
                ledger.retry(job_id, token, again, BROKEN)
            case "snooze":
                ledger.snooze(job_id, token, 0)
            case "report":
                ledger.report(job_id, token, {"done": 1})
            case "begin":
                ledger.begin(job_id, token)

    def _is_running_under(self, held: Held) -> bool:
        row = self.seen[held.job_id]
        return bool(row["state"] == "running" and row["token"] == held.token)

    def _is_ended_in(self, number: int, held: Held) -> bool:
        """Our own open transaction has ended it already."""
        with self.sessions[number].current():
            return not Job.objects.filter(pk=held.job_id, state="running", token=held.token).exists()

    @rule(held=held, cancels=st.booleans())
    def bury_or_cancel(self, held: Held, cancels: bool) -> None:
        is_ours = self._is_running_under(held)
        with self._in(self._settled()):
            ended = ledger.cancelled if cancels else partial(ledger.bury, failure=BROKEN)
            assert ended(held.job_id, held.token) == is_ours

    @rule(held=held, how=st.sampled_from(["child", "database", "lease", "stop", "renew"]))
    def lose_the_worker(self, held: Held, how: str) -> None:
        # A poison job would need more crashes than a run has steps. And the server may have been started a moment
        # ago; the grace that the rescue grants after that is not the subject here.
        one_crash = patch.object(rescue, "crashes_allowed", lambda _: 1)
        with self._in(self._settled()), one_crash, patch.object(django_settings, "JOBS_LEASE", timedelta(0)):
            match how:
                case "child":
                    rescue.crashed(held.job_id, BROKEN, held.worker_id, held.token)
                case "database":
                    rescue.crashed(held.job_id, BROKEN, token=held.token)
                case "lease":
                    an_hour_ago = timezone.now() - timedelta(hours=1)
                    Job.objects.filter(pk=held.job_id, state="running").update(lease_until=an_hour_ago)
                    rescue.hand_on_expired()
                case "stop":
                    rescue.release(held.worker_id, {held.job_id: held.token})
                case "renew":
                    rescue.renew([held.job_id], held.worker_id)

    # --- What must never be -------------------------------------------------------------------------------------------

    @invariant()
    def what_is_committed_is_sound(self) -> None:
        rows, letters = committed()
        for row in rows.values():
            self._check_row(row)
            before = self.seen.get(row["id"])
            if before:
                self._check_step(before, row)
        assert self.accepted <= rows.keys(), "an accepted job is lost"
        assert Counter(letters) == Counter(row["id"] for row in rows.values() if row["state"] == "dead")
        self._check_keys(rows)
        self.seen = rows

    def _check_row(self, row: dict[str, Any]) -> None:
        assert 0 <= row["attempts"] <= row["token"]
        assert row["token"] == sum(1 for job_id, _ in self.claims if job_id == row["id"])
        assert (row["lease_until"] is not None) == (row["state"] == "running"), (
            "a lease without a runner, or none for one"
        )
        assert row["state"] != "running" or row["attempts"] >= 1
        if row["state"] == "succeeded":
            result = row["result"] and json.loads(row["result"])
            assert result in (None, {"by": row["token"]}), "the end was written under another token"

    def _check_step(self, before: dict[str, Any], row: dict[str, Any]) -> None:
        assert row["state"] in MAY_FOLLOW[before["state"]], f"{before['state']} became {row['state']}"
        assert row["token"] >= before["token"]
        assert row["crashes"] >= before["crashes"]
        if before["finished_at"]:
            frozen = {**row, "unique_key": before["unique_key"]}
            assert frozen == before, "an end was overwritten"

    def _check_keys(self, rows: dict[UUID, dict[str, Any]]) -> None:
        """At most one live job a key; a key that is held until the start binds the jobs that were never started."""
        holding = [
            (row["unique_until"], row["unique_key"])
            for row in rows.values()
            if row["unique_key"] and not row["finished_at"]
        ]
        assert len({key for _, key in holding}) == len(holding)
        for row in rows.values():
            if row["unique_until"] == "finished" and not row["finished_at"]:
                assert row["unique_key"], "a live job let go of its key"


WITHOUT_FENCING = {
    "succeed": ("SUCCEED", " AND token = %s", " AND %s > 0"),
    "succeed_many": ("SUCCEED_MANY", " AND job.token = ended.token", ""),
}


@pytest.fixture
def sessions(transactional_db: None) -> Iterator[list[Session]]:
    """All used by one thread, so a lock that is not free at once will not be free before the other goes on."""
    sessions = [Session(lock_timeout="3ms") for _ in range(3)]
    yield sessions
    for session in sessions:
        session.close()


@pytest.mark.parametrize("end", WITHOUT_FENCING)
def test_the_machine_tells_an_end_that_is_not_fenced(sessions: list[Session], end: str) -> None:
    """A worker was taken for dead, the job runs elsewhere, and the first one comes to its end after all."""
    statement, fence, nothing = WITHOUT_FENCING[end]
    assert fence in getattr(ledger, statement)
    machine = LedgerMachine(sessions)
    try:
        job_id = machine._record(2, a_job())
        assert job_id is not None
        machine.what_is_committed_is_sound()
        zombie = machine.claim(job_id, 0)
        machine.lose_the_worker(zombie, "stop")
        machine.what_is_committed_is_sound()
        machine.claim(job_id, 0)
        machine.what_is_committed_is_sound()
        with (
            patch.object(ledger, statement, getattr(ledger, statement).replace(fence, nothing)),
            pytest.raises(AssertionError, match="a stale token was accepted"),
        ):
            machine.end_attempt(2, zombie, end)
    finally:
        machine.teardown()


def test_no_job_is_lost_claimed_twice_or_ended_twice_in_any_order_of_events(sessions: list[Session]) -> None:
    profile = settings(
        max_examples=40,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        # Shrinking would take minutes, and each step prints itself.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    make: Any = partial(LedgerMachine, sessions)
    run_state_machine_as_test(make, settings=profile)
