"""Jobs whose worker, message or code is missing."""

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app, shared_task
from django.conf import settings
from django.db import OperationalError, connection
from django.utils import timezone

from apps.jobs import lease, ledger, rescue
from apps.jobs.backpressure import QueueFull
from apps.jobs.failures import Failure, Kind
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job, Worker
from apps.jobs.relay import Relay
from apps.jobs.request import JobRequest
from tasks.lab import lab_nothing
from tests.jobs.bench import LONG_AGO, Bench, behind_stale_statistics, claim, insert_jobs, record, row
from tests.jobs.sessions import Session

BROKEN = Failure(Kind.PERMANENT, "Broken", "It broke.")

# --- Workers that are gone --------------------------------------------------------------------------------------------


def test_a_job_whose_lease_ran_out_goes_to_another_worker(db: None, no_grace_after_a_restart: None) -> None:
    job_id = record()
    claim(job_id)
    assert rescue.hand_on_expired() == 1
    job = row(job_id)
    assert (job.state, job.crashes, job.errors[0]["kind"]) == (Job.State.QUEUED, 1, "crashed")
    assert claim(job_id) == 2


def test_a_lease_that_is_renewed_does_not_run_out(db: None, settings: Any) -> None:
    worker_id = uuid4()
    job_id = record()
    settings.JOBS_LEASE = timedelta(0)
    ledger.claim({job_id: 0}, worker_id)
    settings.JOBS_LEASE = timedelta(minutes=1)
    rescue.renew([job_id], worker_id)
    settings.JOBS_LEASE = timedelta(0)
    assert rescue.hand_on_expired() == 0


def test_a_worker_renews_only_its_own_leases(db: None) -> None:
    job_id = record()
    claim(job_id)
    before = row(job_id).lease_until
    rescue.renew([job_id], uuid4())
    assert row(job_id).lease_until == before


def test_renewing_tells_the_worker_what_to_stop(db: None) -> None:
    worker_id = uuid4()
    job_id = record()
    ledger.claim({job_id: 0}, worker_id)
    assert rescue.renew([job_id], worker_id) == []
    ledger.cancel(job_id)
    assert rescue.renew([job_id], worker_id) == [job_id]


def test_renewing_does_not_go_through_the_table_whatever_the_statistics_say(db: None) -> None:
    """With a join this takes seconds."""
    worker_id = uuid4()
    state = "CASE WHEN i <= 300 THEN 'running' ELSE 'queued' END"
    behind_stale_statistics(lambda: insert_jobs(20_000, state=state, worker_id=f"'{worker_id}'::uuid"))
    held = list(Job.objects.filter(state=Job.State.RUNNING).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '1s'")
    rescue.renew(held, worker_id)
    assert Job.objects.filter(lease_until__isnull=False).count() == 300


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "touch",
    [lambda job_id, token: ledger.report(job_id, token, {}), lambda job_id, _: ledger.cancel(job_id)],
    ids=["reports", "cancels"],
)
def test_whoever_touches_a_job_in_a_long_transaction_does_not_hold_up_the_renewals(
    touch: Callable[[UUID, int], object],
) -> None:
    worker_id, touched, other = uuid4(), record(), record()
    tokens = ledger.claim({touched: 0, other: 0}, worker_id)
    Job.objects.update(lease_until=LONG_AGO)
    with closing(Session()) as body, closing(Session()) as worker:
        body.begin()
        with body.current():
            touch(touched, tokens[touched])
        with worker.current():
            rescue.renew([touched, other], worker_id)
    assert (row(other).lease_until or LONG_AGO) > timezone.now()


@pytest.mark.django_db(transaction=True)
def test_what_reports_in_a_transaction_can_be_cancelled_and_renewed_meanwhile() -> None:
    worker_id, job_id = uuid4(), record()
    [token] = ledger.claim({job_id: 0}, worker_id).values()
    with closing(Session()) as body, closing(Session()) as operator:
        body.begin()
        with body.current():
            assert not ledger.report(job_id, token, {})
        with operator.current():
            ledger.cancel(job_id)
            assert rescue.renew([job_id], worker_id) == [job_id]
        with body.current():
            assert ledger.report(job_id, token, {})


def test_after_postgresql_was_away_the_living_get_a_leases_time(db: None, settings: Any) -> None:
    """A server that was started within a lease's time; a lease of ten years stands for a server of this minute."""
    job_id = record()
    claim(job_id)
    Job.objects.update(lease_until=LONG_AGO)
    settings.JOBS_LEASE = timedelta(days=3650)
    assert rescue.hand_on_expired() == 0
    assert row(job_id).state == Job.State.RUNNING


def test_a_poison_job_ends_as_a_dead_letter(db: None, no_grace_after_a_restart: None) -> None:
    job_id = record()
    crashes = 0
    while row(job_id).is_live:
        ledger.hurry([job_id])
        ledger.begin(job_id, claim(job_id))
        crashes += rescue.hand_on_expired()
        assert crashes < 20
    assert crashes == rescue.crashes_allowed(row(job_id)) + 1
    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.attempts) == (Kind.CRASHED, crashes)


def test_a_job_that_its_dead_workers_had_not_begun_is_counted_one_crash_at_most(
    db: None, no_grace_after_a_restart: None
) -> None:
    """It was claimed together with a job that kills workers, and waited behind it each time."""
    job_id = record()
    for _ in range(rescue.crashes_allowed(row(job_id)) + 5):
        ledger.hurry([job_id])
        claim(job_id)
        rescue.hand_on_expired()
    job = row(job_id)
    assert (job.state, job.crashes) == (Job.State.QUEUED, 1)
    assert "before the job began" in job.errors[-1]["message"]


def test_a_job_that_kills_its_workers_before_it_begins_ends_all_the_same(
    db: None, no_grace_after_a_restart: None
) -> None:
    job_id = record()
    while row(job_id).is_live:
        ledger.hurry([job_id])
        claim(job_id)
        rescue.hand_on_expired()
        assert row(job_id).token < 100
    assert DeadLetter.objects.get().kind == Kind.CRASHED


def test_a_job_says_that_it_begins_when_it_was_claimed_before(bench: Bench) -> None:
    result = lab_nothing.delay()
    [message] = bench.send()
    bench.deliver(message)
    assert bench.job(result).begun_token is None
    Job.objects.update(state="queued", finished_at=None)
    bench.run_due()
    assert (bench.job(result).state, bench.job(result).begun_token) == (Job.State.SUCCEEDED, 2)


def test_a_task_that_may_fail_often_may_crash_often(db: None) -> None:
    often, seldom = row(record(task="tasks.lab_flaky")), row(record(task="tasks.lab_nothing"))
    unknown = row(record(task="tasks.of_the_next_release"))
    assert rescue.crashes_allowed(often) == 3 + 2
    assert rescue.crashes_allowed(seldom) >= 3
    assert rescue.crashes_allowed(unknown) == 3 + 2


def test_a_cancelled_job_that_crashes_is_cancelled(db: None, no_grace_after_a_restart: None) -> None:
    job_id = record()
    claim(job_id)
    ledger.cancel(job_id)
    rescue.hand_on_expired()
    assert row(job_id).state == Job.State.CANCELLED


def test_a_deploy_hands_back_without_counting(db: None) -> None:
    worker = Worker.objects.create(name="w", pid=1, pool="prefork")
    job_id, other = record(), record()
    ledger.claim({job_id: 0}, worker.pk)
    claim(other)
    assert rescue.release(worker.pk) == 1
    job = row(job_id)
    assert (job.state, job.attempts, job.crashes, job.token) == (Job.State.QUEUED, 0, 0, 1)
    assert row(other).state == Job.State.RUNNING


def test_a_job_that_begins_at_the_moment_when_it_is_handed_back_for_waiting_is_either(db: None) -> None:
    """Two threads of a solo worker: whoever comes to the row second hears that it is too late."""
    worker = Worker.objects.create(name="w", pid=1, pool="solo")
    begun, released = record(), record()
    tokens = ledger.claim({begun: 0, released: 0}, worker.pk)
    ledger.begin(begun, tokens[begun])
    assert rescue.release(worker.pk, tokens, unless_begun=True) == 1
    assert (row(begun).state, row(released).state) == (Job.State.RUNNING, Job.State.QUEUED)
    with pytest.raises(ledger.LeaseLost):
        ledger.begin(released, tokens[released])


def test_a_worker_that_was_given_a_job_anew_ends_nothing_for_its_own_older_attempt(db: None) -> None:
    worker = Worker.objects.create(name="w", pid=1, pool="prefork")
    job_id = record()
    [old] = ledger.claim({job_id: 0}, worker.pk).values()
    Job.objects.update(state="sent")  # its lease ran out, and the relay has sent it again
    [new] = ledger.claim({job_id: 0}, worker.pk).values()
    rescue.crashed(job_id, BROKEN, worker.pk, old)
    assert rescue.release(worker.pk, {job_id: old}) == 0
    job = row(job_id)
    assert (job.state, job.token, job.crashes) == (Job.State.RUNNING, new, 0)
    assert rescue.release(worker.pk, {job_id: new}) == 1


@pytest.mark.parametrize("is_given_anew", [False, True])
def test_a_time_limit_buries_the_attempt_that_it_struck_and_no_later_one(
    db: None, monkeypatch: pytest.MonkeyPatch, *, is_given_anew: bool
) -> None:
    struck: list[Any] = []
    monkeypatch.setattr("celery.worker.request.Request.on_timeout", lambda *_: struck.append("buried"))
    monkeypatch.setattr("celery.worker.request.Request.acknowledge", lambda _: struck.append("acknowledged"))
    monkeypatch.setattr("celery.worker.request.Request.name", "t")
    job_id = record()
    [token] = ledger.claim({job_id: 0}, lease.worker_id()).values()
    request = JobRequest.__new__(JobRequest)
    request.id, request._request_dict = str(job_id), {"token": token, "ledger": True}
    if is_given_anew:
        Job.objects.update(state="sent")
        ledger.claim({job_id: 0}, lease.worker_id())
    request.on_timeout(soft=False, timeout=1.0)
    assert struck == (["acknowledged"] if is_given_anew else ["buried"])


@pytest.mark.parametrize("how", ["retry", "snooze", "release"])
def test_a_wish_to_cancel_is_kept_when_the_attempt_ends_without_having_seen_it(db: None, how: str) -> None:
    worker = Worker.objects.create(name="w", pid=1, pool="prefork")
    job_id = record()
    [token] = ledger.claim({job_id: 0}, worker.pk).values()
    assert ledger.cancel(job_id) == Job.State.RUNNING
    match how:
        case "retry":
            ledger.retry(job_id, token, NewJob(task="t", args=[], kwargs={}, queue="default", delay=60), BROKEN)
        case "snooze":
            ledger.snooze(job_id, token, 60)
        case "release":
            assert rescue.release(worker.pk) == 1
    job = row(job_id)
    assert (job.state, job.finished_at is not None) == (Job.State.CANCELLED, True)


def test_who_could_not_look_for_a_while_gives_the_living_a_leases_time(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away, and is now another host that has been up for days."""
    monkeypatch.setattr(rescue, "hand_on_expired", lambda: 1)
    lease = settings.JOBS_LEASE.total_seconds()
    watch = rescue.LeaseWatch()
    assert watch.look() == 1
    watch.looked_at -= lease
    assert [watch.look(), watch.look()] == [0, 0]
    watch.patient_until -= lease
    assert watch.look() == 1


@pytest.mark.parametrize(("lease", "every"), [(10, 5), (30, 20), (30, 60)])
def test_whoever_looks_seldom_for_so_short_a_lease_hands_on_all_the_same(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch, lease: int, every: int
) -> None:
    monkeypatch.setattr(rescue, "hand_on_expired", lambda: 1)
    settings.JOBS_LEASE, settings.JOBS_RESCUE_EVERY = timedelta(seconds=lease), timedelta(seconds=every)
    watch = rescue.LeaseWatch()
    watch.looked_at -= every + 1
    assert watch.look() == 1


def test_two_reports_of_one_crash_count_once(db: None) -> None:
    worker_id = uuid4()
    job_id = record()
    ledger.claim({job_id: 0}, worker_id)
    rescue.crashed(job_id, BROKEN, worker_id=worker_id)
    rescue.crashed(job_id, BROKEN, worker_id=worker_id)
    assert row(job_id).crashes == 1


def test_a_lost_message_is_sent_again_and_a_needless_second_one_is_dropped(db: None) -> None:
    job_id = record()
    ledger.take_due(["default"], 1)
    assert rescue.resend(before=LONG_AGO) == 0
    assert rescue.resend(before=timezone.now() + timedelta(seconds=1)) == 1
    ledger.take_due(["default"], 1)
    assert claim(job_id) == 1
    assert ledger.claim({job_id: 0}, None) == {}


@pytest.mark.django_db(transaction=True)
def test_whoever_holds_a_lost_job_for_ever_does_not_hold_the_relay() -> None:
    held, free = record(), record()
    ledger.take_due(["default"], 2)
    with closing(Session()) as person, closing(Session()) as relay:
        person.begin()
        with person.current():
            Job.objects.select_for_update().get(pk=held)
        with relay.current():
            assert rescue.resend(before=timezone.now() + timedelta(seconds=1)) == 1
    assert (row(held).state, row(free).state) == (Job.State.SENT, Job.State.QUEUED)


def test_an_error_before_the_claim_brings_the_job_back_soon(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would, until its message counts as lost an hour later."""
    result = lab_nothing.delay()
    with monkeypatch.context() as broken:
        broken.setattr(ledger, "claim", _break)
        bench.run_due()
    job = bench.job(result)
    assert (job.state, job.crashes, job.errors[0]["exception"]) == (Job.State.QUEUED, 1, "ZeroDivisionError")
    bench.run_all()
    assert bench.job(result).state == Job.State.SUCCEEDED


def test_an_error_before_every_claim_ends_as_a_letter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lab_nothing.delay()
    monkeypatch.setattr(ledger, "claim", _break)
    bench.run_all()
    assert bench.letter(result).exception == "ZeroDivisionError"


def _break(*_: Any) -> None:
    raise ZeroDivisionError


# --- Rows that cannot be moved ----------------------------------------------------------------------------------------


def _raise_key_error() -> None:
    raise KeyError("options")


def _fail_in_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")


def _lose_the_database() -> None:
    raise OperationalError("server closed the connection unexpectedly")


@pytest.fixture(params=[_raise_key_error, _fail_in_the_database])
def poison(request: pytest.FixtureRequest, db: None, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A job that cannot die, whatever is wrong with its row."""
    return undying(request.param, monkeypatch)


def undying(fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> UUID:
    job_id = record(options={"headers": "none"})
    die = ledger.die

    def die_if_possible(job: Job, failure: Failure) -> None:
        die(job, failure)
        if job.id == job_id:
            fail()

    monkeypatch.setattr(ledger, "die", die_if_possible)
    Job.objects.filter(pk=job_id).update(crashes=1000)
    return job_id


def test_a_row_that_cannot_be_moved_does_not_keep_the_others_from_their_turn(
    poison: UUID, no_grace_after_a_restart: None, caplog: pytest.LogCaptureFixture
) -> None:
    other = record()
    claim(poison)
    claim(other)
    assert [rescue.hand_on_expired(limit=1), rescue.hand_on_expired(limit=1)] == [0, 1]
    assert (row(poison).state, row(other).state) == (Job.State.RUNNING, Job.State.QUEUED)
    assert not DeadLetter.objects.exists()
    assert [(line.levelname, str(poison) in line.message) for line in caplog.records] == [("ERROR", True)]


def test_a_row_that_cannot_be_moved_is_left_alone_for_a_leases_time(poison: UUID, settings: Any) -> None:
    settings.JOBS_LEASE = timedelta(0)
    claim(poison)
    Job.objects.update(lease_until=LONG_AGO)
    settings.JOBS_LEASE = timedelta(milliseconds=1)
    rescue.hand_on_expired()
    assert Job.objects.get(lease_until__gt=timezone.now() - timedelta(minutes=1)).id == poison


def test_a_lost_database_is_no_fault_of_a_row(
    db: None, no_grace_after_a_restart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(undying(_lose_the_database, monkeypatch))
    with pytest.raises(OperationalError):
        rescue.hand_on_expired()


def test_a_job_without_a_possible_message_that_cannot_die_waits_and_the_others_are_sent(poison: UUID) -> None:
    other = record()
    due = {job.id: job for job in ledger.take_due(["default"], 10)}
    made = list(Relay(current_app)._messages([due[poison], due[other]]))
    assert [job.id for job, _ in made] == [other]
    assert (row(poison).state, row(poison).run_at > timezone.now()) == (Job.State.QUEUED, True)


def test_an_unknown_task_that_cannot_die_goes_on_waiting(poison: UUID, settings: Any) -> None:
    settings.JOBS_UNKNOWN_TASK_GRACE = timedelta(0)
    for _ in range(2):
        ledger.hurry([poison])
        ledger.take_due(["default"], 10)
        rescue.hand_back_unknown(poison)
    assert (row(poison).state, row(poison).run_at > timezone.now()) == (Job.State.QUEUED, True)


def test_a_worker_that_stops_hands_back_all_though_one_cannot_be_cancelled(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker.objects.create(name="w", pid=1, pool="prefork")
    cancelled, other = record(), record()
    ledger.claim({cancelled: 0, other: 0}, worker.pk)
    ledger.cancel(cancelled)
    monkeypatch.setattr(ledger, "cancel", _break)
    assert rescue.release(worker.pk) == 2
    assert row(other).state == Job.State.QUEUED


# --- A task that this worker does not know ----------------------------------------------------------------------------


def sent(**options: Any) -> UUID:
    job_id = record(**options)
    ledger.take_due(["default"], 10)
    return job_id


def test_an_unknown_task_waits_for_newer_code_and_keeps_its_attempts(db: None) -> None:
    job_id = sent(task="tasks.of_the_next_release")
    rescue.hand_back_unknown(job_id)
    job = row(job_id)
    assert (job.state, job.attempts, job.errors[0]["kind"]) == (Job.State.QUEUED, 0, "unknown_task")
    assert job.run_at > timezone.now()


def test_an_unknown_task_does_not_fill_its_list_of_errors(db: None) -> None:
    job_id = sent(task="tasks.of_the_next_release")
    for _ in range(3):
        rescue.hand_back_unknown(job_id)
        ledger.hurry([job_id])
        ledger.take_due(["default"], 10)
    assert len(row(job_id).errors) == 1


def test_an_unknown_task_waits_for_a_bounded_time(db: None, settings: Any) -> None:
    job_id = sent(task="tasks.of_the_next_release")
    rescue.hand_back_unknown(job_id)
    settings.JOBS_UNKNOWN_TASK_GRACE = timedelta(0)
    ledger.hurry([job_id])
    ledger.take_due(["default"], 10)
    rescue.hand_back_unknown(job_id)
    assert DeadLetter.objects.get().kind == Kind.UNKNOWN_TASK


def test_a_task_that_was_unknown_at_one_deploy_has_its_whole_grace_at_the_next(db: None) -> None:
    """A newer worker started it in between, and it was put off for hours."""
    job_id = sent(task="tasks.of_the_next_release")
    rescue.hand_back_unknown(job_id)
    job = row(job_id)
    job.errors[0]["at"] = (timezone.now() - timedelta(hours=3)).isoformat()
    Job.objects.update(errors=job.errors, started_at=timezone.now() - timedelta(hours=2))
    for _ in range(2):
        ledger.hurry([job_id])
        ledger.take_due(["default"], 10)
        rescue.hand_back_unknown(job_id)
    job = row(job_id)
    assert (job.state, len(job.errors)) == (Job.State.QUEUED, 2)


def test_a_task_that_became_unknown_after_it_had_started_waits_for_a_bounded_time(db: None, settings: Any) -> None:
    job_id = sent(task="tasks.of_the_last_release")
    Job.objects.update(started_at=LONG_AGO)
    rescue.hand_back_unknown(job_id)
    settings.JOBS_UNKNOWN_TASK_GRACE = timedelta(0)
    ledger.hurry([job_id])
    ledger.take_due(["default"], 10)
    rescue.hand_back_unknown(job_id)
    assert row(job_id).state == Job.State.DEAD


@pytest.mark.django_db(transaction=True)
def test_an_unknown_task_whose_message_is_here_before_its_relay_has_committed_waits_too() -> None:
    """It was taken for one that was never sent, and dropped; and then it was sent, without a message."""
    job_id = record(task="tasks.of_the_next_release")
    relay, worker = Session(), Session()
    try:
        relay.begin()
        with relay.current():
            assert ledger.take_due(["default"], 10)
        with worker.current(), pytest.raises(OperationalError, match="lock timeout"):
            rescue.hand_back_unknown(job_id)
        relay.commit()
        with worker.current():
            rescue.hand_back_unknown(job_id)
    finally:
        relay.close()
        worker.close()
    assert row(job_id).errors[0]["kind"] == "unknown_task"


# --- What `link_error` asked for --------------------------------------------------------------------------------------

calls: list[Any] = []


@shared_task(name="tests.clean_up_after")
def clean_up_after(task_id: str) -> None:
    calls.append(task_id)


@shared_task(name="tests.look_at_the_error")
def look_at_the_error(request: Any, exc: BaseException, traceback: Any) -> None:
    calls.append((request.id, type(exc).__name__, str(exc)))


@pytest.fixture
def crashed_too_often(no_grace_after_a_restart: None) -> Callable[[Any], UUID]:
    """Records a job with this callback, and loses its worker until it is dead."""
    calls.clear()

    def crash(errback: Any) -> UUID:
        job_id = record(options={"link_error": [errback]})
        while row(job_id).is_live:
            ledger.hurry([job_id])
            ledger.begin(job_id, claim(job_id))
            rescue.hand_on_expired()
        return job_id

    return crash


def test_link_error_runs_after_a_job_that_crashed_too_often(bench: Bench, crashed_too_often: Any) -> None:
    job_id = crashed_too_often(clean_up_after.s())
    bench.run_all()
    assert calls == [str(job_id)]
    assert Job.objects.get(task="tests.clean_up_after").parent_id == job_id


def test_a_callback_that_wants_the_error_gets_it(
    bench: Bench, crashed_too_often: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job_id = crashed_too_often(look_at_the_error.s())
    [(task_id, name, message)] = calls
    assert (task_id, name) == (str(job_id), "WorkerLost")
    assert "died" in message


def test_a_callback_that_cannot_start_is_a_letter_and_keeps_no_job_alive(
    bench: Bench, crashed_too_often: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(queue: str, jobs: int = 1) -> None:
        raise QueueFull(queue, 0)

    monkeypatch.setattr("apps.jobs.task.admit", refuse)
    job_id = crashed_too_often(clean_up_after.s())
    assert row(job_id).state == Job.State.DEAD
    letter = DeadLetter.objects.get(task="tests.clean_up_after")
    assert (letter.kind, letter.args) == (Kind.DEPENDENCY, [str(job_id)])


def test_a_callback_that_is_no_signature_keeps_no_job_alive(bench: Bench, crashed_too_often: Any) -> None:
    assert row(crashed_too_often("garbage")).state == Job.State.DEAD


def test_link_error_runs_after_a_job_that_nobody_knew(bench: Bench, settings: Any) -> None:
    calls.clear()
    job_id = sent(task="tasks.of_the_next_release", options={"link_error": [clean_up_after.s()]})
    settings.JOBS_UNKNOWN_TASK_GRACE = timedelta(0)
    rescue.hand_back_unknown(job_id)
    ledger.hurry([job_id])
    ledger.take_due(["default"], 10)
    rescue.hand_back_unknown(job_id)
    assert row(job_id).state == Job.State.DEAD
    bench.run_all()
    assert calls == [str(job_id)]
