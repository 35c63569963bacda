"""Transitions one at a time, and pairs of them at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from apps.jobs import ledger, rescue
from apps.jobs.failures import Failure, Kind
from apps.jobs.ledger import LeaseLost, NewJob
from apps.jobs.models import DeadLetter, Job, Worker
from apps.jobs.wakeup import Ear
from tests.jobs.bench import LONG_AGO, behind_stale_statistics, claim, record, row
from tests.jobs.sessions import Session

BROKEN = Failure(Kind.PERMANENT, "Broken", "It broke.")


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The answers of calls that start together, each on a connection of its own. An exception is an answer too."""
    start = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            start.wait()
            return call()
        except LeaseLost as exc:
            return exc
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_whoever_holds_a_row_for_ever_does_not_hold_a_worker(transactional_db: None) -> None:
    """A relay that was frozen between publishing and its commit, for example."""
    held, free = record(), record()
    token = claim(free)
    relay = Session()
    relay.begin()
    try:
        with relay.current():
            Job.objects.select_for_update().get(pk=held)
            Job.objects.select_for_update().get(pk=free)
        for call in (lambda: ledger.claim({held: 0}, None), lambda: ledger.succeed_many([(free, token, 0.1)])):
            with pytest.raises(OperationalError, match="lock timeout"):
                call()
    finally:
        relay.close()
    assert claim(held)
    assert ledger.succeed_many([(free, token, 0.1)]) == {free}


# --- Ends -------------------------------------------------------------------------------------------------------------


def test_a_stale_token_can_change_nothing(db: None, no_grace_after_a_restart: None) -> None:
    job_id = record()
    stale = claim(job_id)
    rescue.hand_on_expired()
    fresh = claim(job_id)
    for transition in (
        lambda: ledger.succeed(job_id, stale),
        lambda: ledger.retry(job_id, stale, NewJob(id=job_id, task="t", args=[], kwargs={}, queue="default"), BROKEN),
        lambda: ledger.snooze(job_id, stale, 1),
        lambda: ledger.report(job_id, stale, {}),
    ):
        with pytest.raises(LeaseLost):
            transition()
    assert not ledger.bury(job_id, stale, BROKEN)
    assert not ledger.cancelled(job_id, stale)
    rescue.crashed(job_id, BROKEN, token=stale)
    assert (row(job_id).state, row(job_id).token, row(job_id).crashes) == (Job.State.RUNNING, fresh, 1)


def test_an_end_is_final(db: None) -> None:
    job_id = record()
    token = claim(job_id)
    ledger.succeed(job_id, token, {"answer": 42})
    before = Job.objects.filter(pk=job_id).values().get()
    ledger.cancel(job_id)
    ledger.bury(job_id, token, BROKEN)
    ledger.bury(job_id, None, BROKEN)
    ledger.hurry([job_id])
    rescue.resend(before=timezone.now() + timedelta(days=1))
    ledger.refuse(job_id)
    assert not ledger.claim({job_id: 0}, None)
    assert Job.objects.filter(pk=job_id).values().get() == before
    assert not DeadLetter.objects.exists()


def test_a_job_that_nobody_runs_needs_no_token_to_die(db: None) -> None:
    job_id = record()
    assert ledger.bury(job_id, None, BROKEN)
    assert DeadLetter.objects.get().job_id == job_id


def test_a_running_job_does_not_die_without_its_token(db: None) -> None:
    job_id = record()
    claim(job_id)
    assert not ledger.bury(job_id, None, BROKEN)


# --- At the same moment -----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_of_eight_deliveries_of_one_message_one_gets_the_job() -> None:
    job_id = record()
    answers = at_once(*[lambda: ledger.claim({job_id: 0}, uuid4())] * 8)
    assert sorted(answers, key=len) == [{}] * 7 + [{job_id: 1}]


@pytest.mark.django_db(transaction=True)
def test_two_relays_never_take_the_same_job() -> None:
    ledger.record([NewJob(task="t", args=[], kwargs={}, queue="default") for _ in range(200)])
    taken = at_once(*[lambda: ledger.take_due(["default"], 60)] * 3)
    ids = [due.id for batch in taken for due in batch]
    assert len(ids) == len(set(ids)) == 180


@pytest.mark.django_db(transaction=True)
def test_a_relay_does_not_wait_for_the_rows_of_another() -> None:
    ledger.record([NewJob(task="t", args=[], kwargs={}, queue="default") for _ in range(4)])
    with transaction.atomic():
        mine = ledger.take_due(["default"], 2)
        [others] = at_once(lambda: ledger.take_due(["default"], 10))
    assert len(mine) == len(others) == 2
    assert not {due.id for due in mine} & {due.id for due in others}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", range(5))
def test_a_zombies_end_and_the_rescue_do_not_both_count(no_grace_after_a_restart: None, attempt: int) -> None:
    job_id = record()
    token = claim(job_id)
    ended, _ = at_once(lambda: ledger.succeed(job_id, token), rescue.hand_on_expired)
    job = row(job_id)
    if isinstance(ended, LeaseLost):
        assert (job.state, job.crashes) == (Job.State.QUEUED, 1)
    else:
        assert (job.state, job.crashes) == (Job.State.SUCCEEDED, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", range(5))
def test_a_cancel_and_a_claim_at_once_leave_no_job_that_runs_unasked(attempt: int) -> None:
    job_id = record()
    state, tokens = at_once(lambda: ledger.cancel(job_id), lambda: ledger.claim({job_id: 0}, None))
    if tokens:
        assert (state, row(job_id).cancel_requested) == (Job.State.RUNNING, True)
    else:
        assert state == row(job_id).state == Job.State.CANCELLED


@pytest.mark.django_db(transaction=True)
def test_two_operators_who_cancel_at_once_cancel_once() -> None:
    job_id = record()
    assert at_once(*[lambda: ledger.cancel(job_id)] * 2) == [Job.State.CANCELLED] * 2


# --- When -------------------------------------------------------------------------------------------------------------


def test_due_jobs_go_in_the_order_in_which_they_became_due(db: None) -> None:
    late, early = record(run_at=LONG_AGO), record(run_at=LONG_AGO - timedelta(hours=1))
    assert [due.id for due in ledger.take_due(["default"], 1)] == [early]
    assert [due.id for due in ledger.take_due(["default"], 1)] == [late]


def test_a_flood_in_one_queue_does_not_stand_before_the_others(db: None) -> None:
    ledger.record([NewJob(task="t", args=[], kwargs={}, queue="low") for _ in range(50)])
    urgent = record(queue="high")
    assert urgent in [due.id for due in ledger.take_due(["low", "high"], 10)]


def test_the_next_due_moment_is_known(db: None) -> None:
    assert ledger.next_due(["default"]) is None
    record(delay=90)
    assert ledger.next_due(["default"]) == pytest.approx(90, abs=5)
    record(run_at=LONG_AGO)
    overdue = ledger.next_due(["default"])
    assert overdue is not None
    assert overdue < 0


def test_a_job_of_the_future_cannot_be_claimed_early(db: None) -> None:
    assert not ledger.claim({record(delay=60): 0}, None)


def test_hurry_makes_a_waiting_job_due(db: None) -> None:
    job_id = record(delay=3600)
    assert ledger.hurry([job_id]) == 1
    assert [due.id for due in ledger.take_due(["default"], 1)] == [job_id]


def test_hurry_leaves_a_job_that_is_due_in_its_place(db: None) -> None:
    first, second = record(), record()
    ledger.hurry([first])
    assert [due.id for due in ledger.take_due(["default"], 1)] == [first]
    assert ledger.hurry([second]) == 1


def heard(ear: Ear, action: Callable[[], Any]) -> bool:
    ear.wait(0)
    action()
    return ear.wait(2)


@pytest.mark.django_db(transaction=True)
def test_a_commit_wakes_the_relay() -> None:
    ear = Ear()
    try:
        assert heard(ear, record)
    finally:
        ear.close()


@pytest.mark.django_db(transaction=True)
def test_a_job_for_later_wakes_nobody() -> None:
    ear = Ear()
    try:
        ear.wait(0)
        record(delay=3600)
        assert not ear.wait(0.2)
    finally:
        ear.close()


@pytest.mark.django_db(transaction=True)
def test_the_relay_listens_to_the_server_as_django_would_connect_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", "-c lock_timeout=1234ms")
    ear = Ear()
    try:
        assert ear._listening().execute("SHOW lock_timeout").fetchone() == ("1234ms",)
    finally:
        ear.close()


@pytest.mark.django_db(transaction=True)
def test_a_relay_that_could_not_listen_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    try:
        with monkeypatch.context() as broken:
            broken.setattr("apps.jobs.wakeup.CHANNEL", "no channel")
            with pytest.raises(OperationalError):
                ear.wait(0)
        assert heard(ear, record)
    finally:
        ear.close()


# --- A job that only waits --------------------------------------------------------------------------------------------


def snooze(job_id: UUID, seconds: float = 0) -> None:
    ledger.hurry([job_id])
    ledger.snooze(job_id, claim(job_id, row(job_id).retries), seconds)


def test_a_job_that_is_put_off_for_ever_ends_as_a_letter(db: None, settings: Any) -> None:
    job_id = record()
    snooze(job_id)
    assert row(job_id).state == Job.State.QUEUED
    settings.JOBS_SNOOZE_LIMIT = timedelta(0)
    snooze(job_id)
    assert row(job_id).state == Job.State.DEAD
    assert DeadLetter.objects.get().exception == "SnoozedTooLong"


def test_what_waited_in_a_paused_queue_has_not_put_itself_off_meanwhile(db: None, settings: Any) -> None:
    job_id = record()
    snooze(job_id)
    two_days = timedelta(days=2)
    Job.objects.update(run_at=F("run_at") - two_days, snoozed_since=F("snoozed_since") - two_days)
    snooze(job_id)
    assert row(job_id).state == Job.State.QUEUED


def test_a_try_that_went_further_begins_the_patience_anew(db: None, settings: Any) -> None:
    job_id = record()
    snooze(job_id)
    ledger.hurry([job_id])
    again = NewJob(task="tasks.lab_nothing", args=[], kwargs={}, queue="default", retries=1)
    ledger.retry(job_id, claim(job_id), again, BROKEN)
    assert row(job_id).snoozed_since is None


# --- What a person may see --------------------------------------------------------------------------------------------


def test_text_that_postgresql_refuses_does_not_keep_a_job_from_dying(db: None) -> None:
    job_id = record()
    failure = Failure.of(ValueError("a NUL \x00, half a character \ud800, and\u2028more"))
    assert ledger.bury(job_id, None, failure)
    assert "a NUL" in DeadLetter.objects.get().message


def test_an_endless_message_is_shortened(db: None) -> None:
    job_id = record()
    ledger.bury(job_id, None, Failure.of(ValueError("x" * 1_000_000)))
    assert len(DeadLetter.objects.get().message) < 3_000
    assert len(str(row(job_id).errors)) < 20_000


def test_an_error_keeps_the_worker_and_the_attempt_that_a_later_claim_overwrites(db: None) -> None:
    worker = Worker.objects.create(name="io@host", pid=1, pool="gevent")
    job_id = record()
    for _ in range(2):
        token = ledger.claim({job_id: 0}, worker.pk)[job_id]
        ledger.retry(job_id, token, NewJob(id=job_id, task="t", args=[], kwargs={}, queue="default"), BROKEN)
        Job.objects.filter(pk=job_id).update(state="sent")
    ledger.bury(job_id, None, BROKEN)
    kept = [(error.get("attempt"), error.get("worker")) for error in row(job_id).errors]
    assert kept == [(1, "io@host"), (2, "io@host"), (None, None)]


def test_a_claim_does_not_read_all_that_is_sent_whatever_the_statistics_say(db: None) -> None:
    """They may be from when the queue was empty, as of this table, which nobody has analysed."""
    Job.objects.bulk_create([Job(task="t", queue="default", state="sent") for _ in range(3_000)])
    ids = Job.objects.values_list("pk", flat=True)[:16]
    statement, pairs = ledger._with_values(ledger.CLAIM, "(%s::uuid, %s::int)", [(job_id, 0) for job_id in ids])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {statement}", [None, settings.JOBS_LEASE, *pairs, True])  # type: ignore[list-item]  # psycopg knows intervals
        plan = "\n".join(line for [line] in cursor.fetchall())
    assert "job_sent" not in plan


def test_what_is_taken_is_no_more_than_the_limit_whatever_the_statistics_say(db: None) -> None:
    times = [LONG_AGO + timedelta(seconds=second) for second in range(1_000, 0, -1)]
    jobs = [Job(task="t", queue="default", run_at=at) for at in times]
    behind_stale_statistics(lambda: Job.objects.bulk_create(jobs))
    assert [due.id for due in ledger.take_due(["default"], 10)] == [job.pk for job in reversed(jobs[-10:])]


def test_what_was_recorded_together_is_taken_in_the_order_in_which_it_was_given(db: None) -> None:
    jobs = [NewJob(task="tasks.lab_nothing", args=[], kwargs={}, queue="default") for _ in range(300)]
    ledger.record(jobs)
    assert [due.id for due in ledger.take_due(["default"], 300)] == [job.id for job in jobs]
