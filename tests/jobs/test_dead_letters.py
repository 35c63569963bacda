"""Dead letters: a replay is one new job that points back, whoever asks for it and however often."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import shared_task
from django.contrib.auth.models import User
from django.db import connection

from apps.jobs import dead_letters, origin
from apps.jobs.dead_letters import NotReplayable
from apps.jobs.models import DeadLetter, Job
from apps.local.waiting import wait_for
from tasks.lab import lab_add, lab_fail, lab_unique
from tests.jobs.bench import Bench
from tests.jobs.sessions import Session, somebody_waits_for_a_lock

OPEN, REPLAYED, DISCARDED = DeadLetter.State.OPEN, DeadLetter.State.REPLAYED, DeadLetter.State.DISCARDED


@shared_task(name="tests.fail_for_an_hour", unique=("key",), unique_for=timedelta(hours=1))
def fail_for_an_hour(key: str) -> None:
    raise ValueError(key)


def letter(task: Any = lab_add, **fields: Any) -> DeadLetter:
    fields = {"kwargs": {"x": 1, "y": 2}, "queue": "default", "kind": "permanent", **fields}
    return DeadLetter.objects.create(task=getattr(task, "name", task), **fields)


def state_of(letter: DeadLetter) -> str:
    letter.refresh_from_db()
    return letter.state


def test_a_replay_is_a_job_of_its_own_that_points_back(bench: Bench) -> None:
    result = lab_fail.delay(message="No.")
    bench.run_due()
    operator = User.objects.create(username="operator")

    new_id = dead_letters.replay(bench.letter(result).id, by=operator)

    job = Job.objects.get(pk=new_id)
    assert (job.task, job.kwargs, job.state) == (lab_fail.name, {"message": "No."}, Job.State.QUEUED)
    assert str(job.replay_of) == result.id != str(job.id)
    closed = bench.letter(result)
    assert (closed.state, closed.replay_id, closed.resolved_by) == (REPLAYED, new_id, operator)
    assert bench.job(result).state == Job.State.DEAD


def test_a_replay_that_fails_again_leaves_a_letter_of_its_own(bench: Bench) -> None:
    result = lab_fail.delay()
    bench.run_due()
    new_id = dead_letters.replay(bench.letter(result).id)
    bench.run_due()
    assert dict(DeadLetter.objects.values_list("job_id", "state")) == {bench.job(result).id: REPLAYED, new_id: OPEN}


def test_a_letter_is_replayed_once(bench: Bench) -> None:
    dead = letter()
    assert dead_letters.replay(dead.id) is not None
    assert dead_letters.replay(dead.id) is None
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    "replay",
    [
        lambda letter: dead_letters.replay(letter.pk),
        lambda letter: dead_letters.replay_many(DeadLetter.objects.filter(pk=letter.pk))[0],
    ],
    ids=["one", "many"],
)
def test_a_dead_job_that_holds_its_key_for_a_time_gives_it_to_its_replay(bench: Bench, replay: Any) -> None:
    result = fail_for_an_hour.delay("a")
    bench.run_due()

    job = Job.objects.get(pk=replay(bench.letter(result)))

    assert (str(job.replay_of), job.state) == (result.id, Job.State.QUEUED)
    assert fail_for_an_hour.delay("a").id == str(job.id)


def replay_elsewhere(letter_id: Any) -> Any:
    """In a thread, which has a connection of its own."""
    try:
        return dead_letters.replay(letter_id)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first_commits", [True, False], ids=["commits", "rolls back"])
def test_two_operators_who_replay_a_letter_at_once_make_one_job(first_commits: bool) -> None:
    dead, first = letter(), Session()
    first.begin()
    with first.current():
        first_id = dead_letters.replay(dead.id)
    with ThreadPoolExecutor(1) as second:
        answer = second.submit(replay_elsewhere, dead.id)
        assert wait_for(somebody_waits_for_a_lock, 10)
        first.commit() if first_commits else first.rollback()
        second_id = answer.result()
    first.close()
    assert (second_id is None) == first_commits
    assert Job.objects.get().id == (first_id if first_commits else second_id)
    assert state_of(dead) == REPLAYED


def test_a_replay_may_correct_the_arguments(bench: Bench) -> None:
    dead = letter(args=[1, 2], kwargs={})
    new_id = dead_letters.replay(dead.id, kwargs={"x": 1, "y": 40})
    bench.run_due()
    job = Job.objects.get(pk=new_id)
    assert (job.args, job.kwargs, job.result) == ([], {"x": 1, "y": 40}, 41)
    dead.refresh_from_db()
    assert dead.args == [1, 2], "what failed is kept as it was"


@pytest.mark.parametrize("kwargs", [{"x": 1}, {"x": 1, "y": 2, "z": 3}, {}], ids=["missing", "too many", "none"])
def test_arguments_that_do_not_fit_the_task_are_refused_and_the_letter_stays_open(
    bench: Bench, kwargs: dict[str, int]
) -> None:
    dead = letter()
    with pytest.raises(NotReplayable, match=r"do not fit tasks\.lab_add"):
        dead_letters.replay(dead.id, kwargs=kwargs)
    assert (state_of(dead), Job.objects.count()) == (OPEN, 0)


def test_a_task_that_no_code_knows_is_refused_and_the_letter_stays_open(bench: Bench) -> None:
    dead = letter("tasks.of_yesterday")
    with pytest.raises(NotReplayable, match=r"No task is named 'tasks\.of_yesterday'"):
        dead_letters.replay(dead.id)
    assert (state_of(dead), Job.objects.count()) == (OPEN, 0)


def test_many_are_replayed_evenly_over_the_time_that_is_given(bench: Bench) -> None:
    for _ in range(4):
        letter()
    ids = dead_letters.replay_many(DeadLetter.objects.all(), over=timedelta(minutes=20))
    moments = [Job.objects.get(pk=job_id).run_at for job_id in ids]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
    assert gaps == pytest.approx([300.0, 300.0, 300.0], abs=5)


def test_what_cannot_be_replayed_does_not_keep_the_others_back(bench: Bench) -> None:
    letters = [letter(), letter("tasks.of_yesterday"), letter(kwargs={"x": 1}), letter()]
    assert len(dead_letters.replay_many(DeadLetter.objects.all())) == 2
    assert [state_of(each) for each in letters] == [REPLAYED, OPEN, OPEN, REPLAYED]


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_discard_needs_a_reason(bench: Bench, reason: str) -> None:
    dead = letter()
    with pytest.raises(ValueError, match="Say why"):
        dead_letters.discard(DeadLetter.objects.all(), reason)
    assert state_of(dead) == OPEN


def test_what_is_discarded_keeps_its_reason_and_is_not_replayed(bench: Bench) -> None:
    dead, replayed = letter(), letter()
    dead_letters.replay(replayed.id)
    assert dead_letters.discard(DeadLetter.objects.all(), "The shop is closed.") == 1
    assert (state_of(dead), dead.reason, dead.resolved_at is None) == (DISCARDED, "The shop is closed.", False)
    assert state_of(replayed) == REPLAYED
    assert dead_letters.replay(dead.id) is None


def test_a_replay_holds_its_unique_key_again(bench: Bench) -> None:
    new_id = dead_letters.replay(letter(lab_unique, kwargs={"key": "a"}).id)
    assert lab_unique.delay(key="a").id == str(new_id)
    assert Job.objects.count() == 1


def test_a_replay_of_what_somebody_has_asked_for_again_is_that_job(bench: Bench) -> None:
    dead = letter(lab_unique, kwargs={"key": "a"})
    asked = lab_unique.delay(key="a")
    assert str(dead_letters.replay(dead.id)) == asked.id
    assert (state_of(dead), Job.objects.count()) == (REPLAYED, 1)


def test_a_replay_belongs_to_whom_the_job_belonged_to_and_not_to_the_operator(bench: Bench) -> None:
    customer, operator = User.objects.create(username="customer"), User.objects.create(username="operator")
    origin.working_for(origin.Origin(owner_id=customer.id))
    result = lab_fail.delay()
    bench.run_due()
    origin.working_for(origin.Origin(owner_id=operator.id))
    new_id = dead_letters.replay(bench.letter(result).id, by=operator)
    assert Job.objects.get(pk=new_id).owner_id == customer.id


@pytest.mark.parametrize(("queue", "goes_to"), [("high", "high"), ("of_yesterday", "default"), ("", "default")])
def test_a_replay_goes_to_its_queue_or_if_that_is_gone_where_the_routes_send_it(
    bench: Bench, queue: str, goes_to: str
) -> None:
    new_id = dead_letters.replay(letter(queue=queue).id)
    assert Job.objects.get(pk=new_id).queue == goes_to
