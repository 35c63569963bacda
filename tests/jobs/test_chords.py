"""Chains, groups and chords: Celery's own canvas, counted by the ledger."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from celery import chain, chord, group, shared_task, states
from celery.exceptions import ChordError, Ignore
from celery.result import AsyncResult
from django.db import OperationalError, connection
from psycopg.errors import DeadlockDetected

from apps.jobs import chords, dead_letters, ledger
from apps.jobs.failures import Failure
from apps.jobs.ledger import NewJob
from apps.jobs.models import Chord, DeadLetter, Job
from apps.jobs.task import JobTask
from apps.local.waiting import wait_for
from tasks.lab import lab_add, lab_fail, lab_fail_broker_only, lab_nothing_broker_only, lab_total, lab_unique
from tests.jobs.bench import Bench, claim, record, row
from tests.jobs.sessions import Session, somebody_waits_for_a_lock

ONE_TO_FIVE = [lab_add.s(x, 0) for x in range(1, 6)]


@shared_task(name="tests.keep", ignore_result=False)
def keep(value: Any) -> Any:
    return value


def test_a_chain_hands_on_its_results(bench: Bench) -> None:
    result = chain(lab_add.s(1, 2), lab_add.s(10), lab_add.s(100)).apply_async()
    bench.run_all()
    assert result.get() == 113


@pytest.mark.parametrize(
    ("canvas", "jobs"),
    [
        (chain(lab_add.s(1, 1), lab_add.s(2)), 2),
        (lab_add.s(1, 1) | chain(lab_add.s(2), lab_add.s(3)), 3),
        (chain(lab_add.s(1, 1), group(lab_add.s(2), lab_add.s(3)), lab_total.s()), 4),
        (group(chain(lab_add.s(1, 1), lab_add.s(2)), lab_add.s(3, 3)), 3),
        (chord([chain(lab_add.s(1, 1), lab_add.s(2)), lab_add.s(3, 3)], lab_total.s()), 4),
    ],
    ids=["chain", "chain of a chain", "group in a chain", "chain in a group", "chain in a chord"],
)
def test_what_is_started_twice_runs_twice(bench: Bench, canvas: Any, jobs: int) -> None:
    assert canvas.delay().id != canvas.delay().id
    bench.run_all()
    assert Job.objects.filter(state=Job.State.SUCCEEDED).count() == 2 * jobs


def test_the_parts_of_a_group_are_taken_in_its_order(bench: Bench) -> None:
    parts = group(lab_add.s(x, 0) for x in range(50)).apply_async()
    assert [message.headers["id"] for message in bench.send()] == [part.id for part in parts]


def test_the_links_of_a_chain_know_their_parent_and_their_root(bench: Bench) -> None:
    last = chain(lab_add.s(1, 2), lab_add.s(10), lab_add.s(100)).apply_async()
    bench.run_all()
    first = Job.objects.get(pk=last.parent.parent.id)
    job = bench.job(last)
    assert (str(job.parent_id), job.root_id) == (last.parent.id, first.pk)


def test_a_chain_stops_at_a_link_that_dies(bench: Bench) -> None:
    chain(lab_fail.si(), lab_add.si(1, 2)).apply_async()
    bench.run_all()
    assert Job.objects.get().state == Job.State.DEAD


def test_a_message_that_comes_twice_does_not_fork_a_chain(bench: Bench) -> None:
    chain(lab_add.s(1, 2), lab_add.s(10)).apply_async()
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    bench.run_all()
    assert Job.objects.count() == 2


def test_a_group_collects_its_results_in_order(bench: Bench) -> None:
    result = group(ONE_TO_FIVE).apply_async()
    bench.run_all()
    assert result.get() == [1, 2, 3, 4, 5]


def test_a_groups_link_runs_after_its_first_part_as_in_celery(bench: Bench) -> None:
    parts = group(lab_add.s(1, 1), lab_add.s(2, 2))
    parts.link(keep.si("linked"))
    parts.apply_async()
    bench.run_all()
    assert Job.objects.filter(task="tests.keep").values_list("result", flat=True).get() == "linked"


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (ONE_TO_FIVE, lab_total.s(), 15),
        ([lab_add.s(1, 2)], lab_total.s(), 3),
        ([chain(lab_add.s(x, x), lab_add.s(1)) for x in range(3)], lab_total.s(), 9),
        ([chord([lab_add.s(1, 1), lab_add.s(2, 2)], lab_total.s()), lab_add.s(5, 5)], lab_total.s(), 16),
        (ONE_TO_FIVE, lab_total.s() | lab_add.s(100), 115),
        ([lab_add.s(1, 1), group(lab_add.s(2, 2), lab_add.s(3, 3))], lab_total.s(), 12),
    ],
    ids=["group", "one part", "chains", "chord in a chord", "body is a chain", "group in a header"],
)
def test_a_chord_starts_its_body_with_every_result(bench: Bench, header: Any, body: Any, expected: Any) -> None:
    result = chord(header)(body)
    bench.run_all()
    assert result.get() == expected
    assert not Chord.objects.exists()


def test_a_group_in_a_chain_is_a_chord(bench: Bench) -> None:
    result = (group(lab_add.s(1, 1), lab_add.s(2, 2)) | lab_total.s() | lab_add.s(100)).apply_async()
    bench.run_all()
    assert result.get() == 106


def test_a_chord_after_a_task_gets_that_tasks_result(bench: Bench) -> None:
    result = (lab_add.s(1, 1) | group(lab_add.s(10), lab_add.s(20)) | lab_total.s()).apply_async()
    bench.run_all()
    assert result.get() == 34


def test_an_empty_header_starts_the_body_at_once(bench: Bench) -> None:
    result = chord([])(lab_total.s())
    bench.run_all()
    assert result.get() == 0


def test_a_part_that_is_delivered_twice_counts_once(bench: Bench) -> None:
    result = chord(ONE_TO_FIVE)(lab_total.s())
    first, *others = bench.send()
    bench.deliver(first)
    bench.deliver(first)
    assert Chord.objects.get().waits_for == 4
    for message in others:
        bench.deliver(message)
    bench.run_all()
    assert result.get() == 15
    assert Job.objects.filter(task="tasks.lab_total").count() == 1


def test_a_part_whose_end_was_not_committed_counts_when_it_has_run_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chord(ONE_TO_FIVE)(lab_total.s())
    with monkeypatch.context() as broken:
        broken.setattr("apps.jobs.chords.part_succeeded", _lose_the_database)
        bench.run_due()
    assert Chord.objects.get().waits_for == 5
    assert not Job.objects.filter(state=Job.State.SUCCEEDED).exists()
    bench.run_all()
    assert result.get() == 15


def _lose_the_database(*args: Any) -> None:
    raise OperationalError("server closed the connection unexpectedly")


def test_a_part_that_dies_leaves_a_letter_for_the_body_that_names_it(bench: Bench) -> None:
    result = chord([lab_add.s(1, 1), lab_fail.s("broken")])(lab_total.s())
    bench.run_all()
    letter = bench.letter(result)
    assert (letter.kind, letter.task) == (DeadLetter.Kind.DEPENDENCY, "tasks.lab_total")
    assert "tasks.lab_fail" in letter.message
    assert result.state == states.FAILURE
    assert not Chord.objects.exists()


def test_a_part_that_is_cancelled_ends_the_chord_too(bench: Bench) -> None:
    result = chord([lab_add.s(1, 1), lab_add.s(2, 2)])(lab_total.s())
    ledger.cancel(Job.objects.earliest("created_at").pk)
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.DEPENDENCY


def test_a_link_that_dies_in_a_chain_of_a_header_ends_the_chord_too(bench: Bench) -> None:
    result = chord([chain(lab_fail.si(), lab_add.si(1, 1)), lab_add.s(2, 2)])(lab_total.s())
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.DEPENDENCY


@shared_task(name="tests.ignore_itself")
def ignore_itself() -> None:
    raise Ignore


def test_a_part_that_ignores_itself_counts_and_has_no_result(bench: Bench) -> None:
    result = chord([ignore_itself.si(), chain(lab_add.s(1, 1), ignore_itself.si()), lab_add.s(2, 2)])(keep.s())
    bench.run_all()
    assert bench.job(result).result == [None, None, 4]
    assert not Chord.objects.exists()


def test_a_link_that_ignores_itself_in_a_chain_of_a_header_ends_the_chord(bench: Bench) -> None:
    result = chord([chain(ignore_itself.si(), lab_add.si(1, 1)), lab_add.s(2, 2)])(lab_total.s().on_error(keep.s()))
    bench.run_all()
    assert (bench.letter(result).kind, ignore_itself.name in bench.letter(result).message) == ("dependency", True)
    assert Job.objects.get(task="tests.keep").result == result.id
    assert Job.objects.get(task=ignore_itself.name).state == Job.State.SUCCEEDED


def test_a_link_that_ignores_itself_ends_its_chain_as_in_celery(bench: Bench) -> None:
    chain(ignore_itself.si(), lab_add.si(1, 1)).apply_async()
    bench.run_all()
    assert Job.objects.get().state == Job.State.SUCCEEDED
    assert not DeadLetter.objects.exists()


def test_what_the_body_asked_for_on_an_error_runs_when_a_part_dies(bench: Bench) -> None:
    result = chord([lab_add.s(1, 1), lab_fail.s()], lab_total.s().on_error(keep.s()))()
    bench.run_all()
    assert Job.objects.get(task="tests.keep").result == result.id


def test_each_task_of_a_body_that_is_a_group_has_its_letter_and_its_errbacks(bench: Bench) -> None:
    one, other = lab_add.si(1, 1).on_error(keep.s()), lab_add.si(2, 2) | lab_add.s(3).on_error(keep.si("of a chain"))
    body = group(one, other).on_error(keep.si("of the group"))
    result = (group(lab_fail.si(), lab_add.si(0, 0)) | body).apply_async()
    bench.run_all()
    for member in result.results:
        assert bench.letter(member).kind == DeadLetter.Kind.DEPENDENCY
        with pytest.raises(ChordError, match="lab_fail"):
            member.get(timeout=2)
    told = Job.objects.filter(task=keep.name).values_list("result", flat=True)
    assert sorted(told) == sorted([result.results[0].id, "of the group", "of the group"])
    for letter in DeadLetter.objects.filter(task=lab_add.name):
        dead_letters.replay(letter.pk)
    bench.run_all()
    assert sorted(Job.objects.filter(task=lab_add.name).values_list("result", flat=True)) == [0, 2, 4, 7]


@pytest.mark.parametrize(
    "body",
    [
        (lab_add.si(1, 2) | lab_add.s(10)).on_error(keep.s()),
        (lab_add.si(1, 2) | (lab_add.s(3) | lab_add.s(7))).on_error(keep.s()),
        (lab_add.si(1, 2) | group(lab_add.s(1), lab_add.s(2)) | lab_total.s() | lab_add.s(4)).on_error(keep.s()),
        chord([lab_add.si(1, 1), lab_add.si(2, 2)], (lab_total.s() | lab_add.s(7)).on_error(keep.s())),
    ],
    ids=["chain", "nested chain", "chain with a chord in it", "chord"],
)
def test_a_body_of_several_that_never_started_is_one_letter_and_runs_whole_when_replayed(
    bench: Bench, body: Any
) -> None:
    result = AsyncResult(chord([lab_fail.si()], body)().id)
    bench.run_all()
    letter = bench.letter(result)
    with pytest.raises(ChordError, match="lab_fail"):
        result.get(timeout=2)
    assert [job.result for job in Job.objects.filter(task=keep.name)] == [result.id]
    dead_letters.replay(letter.pk)
    bench.run_all()
    assert Job.objects.filter(task=lab_add.name).latest("created_at").result == 13
    assert not Job.objects.filter(state=Job.State.DEAD).exclude(task=lab_fail.name).exists()


def test_a_body_that_never_started_is_replayed_with_its_options_in_its_own_queue(bench: Bench) -> None:
    then = lab_add.si(1, 2).set(queue="io", time_limit=5, link=keep.si("linked"), link_error=keep.si("told"))
    (lab_add.si(0, 0) | group(lab_fail.si(), lab_add.si(0, 0)) | then | lab_add.s(10)).apply_async()
    bench.run_all()
    letter = DeadLetter.objects.get(kind=DeadLetter.Kind.DEPENDENCY)
    assert (letter.task, letter.queue, letter.options["time_limit"]) == (lab_add.name, "io", 5)
    dead_letters.replay(letter.pk)
    bench.run_all()
    assert Job.objects.filter(task=lab_add.name, result=13).count() == 1
    assert sorted(Job.objects.filter(task=keep.name).values_list("result", flat=True)) == ["linked", "told"]


def test_a_body_that_nobody_here_knows_is_buried_with_the_queue_of_the_part(bench: Bench) -> None:
    result = chord([lab_fail.si().set(queue="io")], lab_total.s())()
    for there in Chord.objects.all():
        Chord.objects.update(body=there.body | {"task": "tasks.of_tomorrow"})
    bench.run_all()
    assert (bench.letter(result).task, bench.letter(result).queue) == ("tasks.of_tomorrow", "io")


OUTER_PARTS = {
    "a chord": lambda: chord([lab_add.s(1, 1), lab_fail.s()], lab_total.s()),
    "a chord whose body is a chain": lambda: chord([lab_fail.s()], lab_total.s() | lab_add.s(1)),
    "a chord whose body is a group": lambda: chord([lab_fail.s()], group(keep.s(), keep.s())),
    "a chord in a chord": lambda: chord([chord([lab_fail.s()], lab_total.s())], lab_total.s()),
    "a chain with a chord in it": lambda: lab_fail.si() | group(lab_add.si(1, 1), lab_add.si(2, 2)) | lab_total.s(),
    "a chain that ends in a group": lambda: lab_fail.si() | group(lab_add.si(1, 1), lab_add.si(2, 2)),
    "a chain that begins with a broker-only task": lambda: lab_fail_broker_only.si() | lab_add.si(1, 1),
}


@pytest.mark.parametrize("part", OUTER_PARTS)
def test_what_dies_on_the_way_to_a_part_ends_the_chord_too(bench: Bench, part: str) -> None:
    result = chord([OUTER_PARTS[part](), lab_add.s(2, 2)], keep.s().on_error(keep.si("told")))()
    bench.run_all()
    letter = bench.letter(result)
    assert (letter.kind, "tasks.lab_fail" in letter.message) == (DeadLetter.Kind.DEPENDENCY, True)
    assert Job.objects.filter(task=keep.name).values_list("result", flat=True).get() == "told"
    assert not Chord.objects.exists()


def test_a_chord_within_an_abandoned_one_is_abandoned_once(bench: Bench) -> None:
    result = chord([chord([lab_add.s(1, 1)], lab_total.s())], keep.s().on_error(keep.si("told")))()
    for there in Chord.objects.order_by("created_at", "waits_for"):
        chords.abandon(there)
    assert bench.letter(result).kind == DeadLetter.Kind.DEPENDENCY
    assert Job.objects.filter(task=keep.name).count() == 1


def test_a_part_that_is_refused_as_a_duplicate_buries_the_body(bench: Bench) -> None:
    there = lab_unique.delay("a")
    result = chord([lab_unique.s("a"), lab_add.s(1, 1)], lab_total.s().on_error(keep.s()))()
    bench.run_all()
    assert there.id in bench.letter(result).message
    assert Job.objects.get(task="tests.keep").result == result.id
    with pytest.raises(ChordError, match="refused as a duplicate"):
        result.get(timeout=10)
    assert not Chord.objects.exists()


def test_a_chain_that_was_to_be_a_part_and_is_refused_buries_the_body_too(bench: Bench) -> None:
    lab_unique.delay("a")
    result = chord([lab_unique.s("a") | lab_add.si(1, 1), lab_add.s(1, 1)], lab_total.s())()
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.DEPENDENCY
    assert DeadLetter.objects.get(task=lab_add.name).exception == "ChainError"


@pytest.mark.parametrize("first", [lab_unique.si("a"), lab_add.si(1, 1) | lab_unique.si("a")], ids=["first", "second"])
def test_a_link_that_is_refused_as_a_duplicate_buries_the_rest_which_can_be_replayed(bench: Bench, first: Any) -> None:
    there = lab_unique.apply_async(["a"], countdown=3600)
    result = (first | lab_add.si(1, 2).on_error(keep.s()) | lab_add.s(10)).apply_async()
    bench.run_due()
    bench.run_due()
    letter = bench.letter(result.parent)
    assert (letter.kind, there.id in letter.message) == (DeadLetter.Kind.DEPENDENCY, True)
    assert Job.objects.get(task="tests.keep").result == str(letter.job_id)
    dead_letters.replay(letter.pk)
    bench.run_all()
    assert Job.objects.filter(task=lab_add.name).latest("created_at").result == 13


def test_a_link_that_is_refused_before_a_chord_leaves_it_whole_for_a_replay(bench: Bench) -> None:
    lab_unique.delay("a")
    parts = group(lab_add.si(1, 1), lab_add.si(2, 2))
    (lab_unique.si("a") | parts | lab_total.s().on_error(keep.si("told")) | lab_add.s(7)).apply_async()
    letter = DeadLetter.objects.get()
    dead_letters.replay(letter.pk)
    bench.run_all()
    assert Job.objects.filter(task=lab_add.name).latest("created_at").result == 13
    assert Job.objects.get(task=keep.name).result == "told"
    assert not Job.objects.filter(state=Job.State.DEAD).exists()


def test_a_job_that_is_there_already_by_its_id_buries_nothing(bench: Bench) -> None:
    for _ in range(2):
        lab_unique.apply_async(["a"], task_id=str(UUID(int=1)), chain=[lab_add.si(1, 1)])
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    "canvas",
    [
        lambda: chord([lab_add.s(1, 2), lab_add.s(1, 3)], lab_total.s()),
        lambda: lab_add.s(0, 1) | group(lab_add.s(2), lab_add.s(3)) | lab_total.s(),
        lambda: chord([lab_add.s(1, 2).set(task_id="one"), lab_add.s(1, 3).set(task_id="two")], lab_total.s()),
        lambda: chord(group(lab_add.s(1, 2), lab_add.s(1, 3)).set(task_id="parts"), lab_total.s()),
    ],
    ids=["body", "chain", "parts", "header"],
)
def test_any_text_may_be_an_id_in_a_chord(bench: Bench, canvas: Callable[[], Any]) -> None:
    canvas().apply_async(task_id="report-7")
    bench.run_all()
    assert AsyncResult("report-7").get(timeout=2) == 7


def test_a_part_that_comes_twice_in_a_header_counts_once(bench: Bench) -> None:
    part = lab_add.s(1, 1).set(task_id=str(UUID(int=1)))
    result = chord([part, part], lab_total.s())()
    bench.run_all()
    assert result.get(timeout=2) == 4


@pytest.mark.parametrize("there", [lambda part: part, lambda part: chord([part], keep.s())], ids=["alone", "a part"])
@pytest.mark.parametrize(
    "before", [lambda part: part, lambda part: lab_add.si(1, 1) | part], ids=["at once", "in a chain"]
)
def test_a_part_whose_id_another_job_has_buries_the_body(
    bench: Bench, there: Callable[[Any], Any], before: Callable[[Any], Any]
) -> None:
    part = lab_add.si(1, 1).set(task_id="part-1")
    there(part).apply_async()
    result = chord([before(part), lab_add.s(2, 2)], lab_total.s().on_error(keep.si("told")))()
    bench.run_all()
    assert "was there already" in bench.letter(result).message
    assert Job.objects.filter(task=keep.name, result="told").count() == 1
    assert not Chord.objects.exists()


@pytest.mark.parametrize("is_over", [False, True])
def test_a_chord_that_is_started_again_under_the_same_ids_is_the_first_one(bench: Bench, is_over: bool) -> None:
    parts = [lab_add.s(1, x).set(task_id=f"part-{x}") for x in (2, 3)]
    for _ in range(2):
        chord(parts, lab_total.s().set(task_id="total").on_error(keep.si("told")))()
        if is_over:
            bench.run_all()
    bench.run_all()
    assert AsyncResult("total").get(timeout=2) == 7
    assert Job.objects.count() == 3
    assert (Chord.objects.count(), DeadLetter.objects.count()) == (0, 0)


def cancel_elsewhere(job_id: UUID) -> None:
    """In a thread, which has a connection of its own."""
    try:
        ledger.cancel(job_id)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first_commits", [True, False], ids=["commits", "rolls back"])
def test_two_parts_that_die_at_once_start_what_the_body_asked_for_once(first_commits: bool) -> None:
    chord([lab_add.s(1, 1), lab_add.s(2, 2)], lab_total.s().on_error(keep.s()))()
    one, other = Job.objects.filter(task=lab_add.name).values_list("pk", flat=True)
    first = Session()
    first.begin()
    with first.current():
        ledger.cancel(one)
    with ThreadPoolExecutor(1) as second:
        done = second.submit(cancel_elsewhere, other)
        assert wait_for(somebody_waits_for_a_lock, 10)
        first.commit() if first_commits else first.rollback()
        done.result()
    first.close()
    assert Job.objects.filter(task=keep.name).count() == 1
    assert DeadLetter.objects.filter(task=lab_total.name).count() == 1


def cancel_many_elsewhere(job_ids: list[UUID]) -> set[UUID]:
    try:
        return ledger.cancel_many(job_ids)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_whoever_cancels_the_parts_of_a_chord_does_not_deadlock_with_one_that_succeeds() -> None:
    """The operator may not hold the chord while waiting for a part, whose worker waits for the chord."""
    parts = chord([lab_add.s(1, 1), lab_add.s(2, 2)], lab_total.s())().parent
    first, last = Job.objects.filter(pk__in=[part.id for part in parts]).order_by("pk").values_list("pk", flat=True)
    token = claim(last)
    with ThreadPoolExecutor(1) as operator, closing(Session()) as worker:
        worker.begin()
        with worker.current():
            ledger.succeed(last, token, 4)
        cancelled = operator.submit(cancel_many_elsewhere, [first, last])
        assert wait_for(somebody_waits_for_a_lock, 10)
        with worker.current():
            chords.part_succeeded(parts.id)
        worker.commit()
        assert cancelled.result() == {first}
    assert DeadLetter.objects.filter(task=lab_total.name).count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_deadlocked_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when two operators cancel different parts of the same two chords."""
    job_id, end = record(), ledger._cancel_batch
    deadlock = OperationalError("deadlock detected")
    deadlock.__cause__ = DeadlockDetected()
    monkeypatch.setattr(ledger, "_cancel_batch", Mock(side_effect=[deadlock, end([job_id])]))
    assert ledger.cancel_many([job_id]) == {job_id}


@pytest.mark.parametrize(
    "options",
    [
        {"chord": {"task": "t"}, "group_id": "no UUID"},
        {"chord": {"task": "t"}, "group_id": 5},
        {"chord": {"task": "t"}},
        {"chain": [{"task": "t"}]},
        {"chain": [{"task": "t", "options": None}, {"task": "t", "options": "x"}, "garbage"]},
        {"chain": None},
    ],
    ids=["a word", "a number", "no group", "a link without options", "no link", "no chain"],
)
def test_a_job_that_is_part_of_no_chord_that_we_know_dies_all_the_same(db: None, options: Any) -> None:
    dead, cancelled = record(options=options), record(options=options)
    ledger.bury(dead, claim(dead), Failure.worker_lost())
    ledger.cancel(cancelled)
    assert (row(dead).state, row(cancelled).state) == (Job.State.DEAD, Job.State.CANCELLED)


def test_a_part_of_no_chord_that_we_know_succeeds(bench: Bench) -> None:
    result = lab_add.delay(1, 1)
    Job.objects.update(options={"chord": keep.s(), "group_id": "no UUID"})
    bench.run_due()
    assert bench.job(result).state == Job.State.SUCCEEDED


def test_the_body_of_a_chord_that_died_tells_whoever_waits(bench: Bench) -> None:
    result = chord([lab_fail.s()])(lab_total.s())
    bench.run_all()
    with pytest.raises(Exception, match="lab_fail"):
        AsyncResult(result.id).get()


@pytest.mark.parametrize("start", [group, lambda parts: chord(parts, lab_total.s())], ids=["group", "chord"])
def test_parts_are_recorded_in_one_statement(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Any]
) -> None:
    statements: list[int] = []
    insert = ledger._insert

    def counted(jobs: Sequence[NewJob]) -> set[UUID]:
        statements.append(len(jobs))
        return insert(jobs)

    monkeypatch.setattr(ledger, "_insert", counted)
    later = lab_add.s(7, 0).set(countdown=3600)
    start([*ONE_TO_FIVE, chain(lab_add.s(6, 0), lab_add.s(0)), later]).apply_async()
    assert statements == [7]
    assert Job.objects.filter(run_at__gt=Job.objects.earliest("run_at").created_at).count() == 1


def test_a_part_that_is_unique_and_there_already_is_not_recorded_again(bench: Bench) -> None:
    @shared_task(name="tests.unique_part", base=JobTask, unique=("x",))
    def unique_part(x: int) -> None:
        pass

    unique_part.delay(1)
    group(unique_part.s(1), unique_part.s(2), lab_add.s(1, 1)).apply_async()
    assert Job.objects.count() == 3


@pytest.mark.parametrize("whole", [lambda: chord(ONE_TO_FIVE, lab_total.s()), lambda: group(ONE_TO_FIVE)])
def test_half_a_chord_or_group_cannot_exist(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, whole: Callable[[], Any]
) -> None:
    """The process dies, or the database goes away, between two parts. No transaction is around the call."""
    written: list[Any] = []
    record = ledger.record

    def fail_at_the_third(jobs: Any) -> Any:
        written.extend(jobs)
        if len(written) == 3:
            raise OperationalError("the connection was lost")
        return record(jobs)

    monkeypatch.setattr(ledger, "record", fail_at_the_third)
    with pytest.raises(OperationalError):
        whole().apply_async()
    assert (Job.objects.count(), Chord.objects.count()) == (0, 0)


def test_a_group_of_broker_only_jobs_waits_for_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test has none, and would fail at the first statement."""
    published: list[Any] = []

    def publish(self: JobTask, args: Any, kwargs: Any, task_id: str, *rest: Any) -> AsyncResult:
        published.append(task_id)
        return AsyncResult(task_id)

    monkeypatch.setattr(JobTask, "_publish", publish)
    group(lab_nothing_broker_only.s() for _ in range(3)).apply_async()
    assert len(published) == 3


# --- Tasks that replace themselves ------------------------------------------------------------------------------------

REPLACEMENTS: dict[str, tuple[Callable[[], Any], Any]] = {
    "task": (lambda: lab_add.s(1, 1), 2),
    "chain": (lambda: chain(lab_add.s(1, 1), lab_add.s(2)), 4),
    "group": (lambda: group(lab_add.s(1, 1), lab_add.s(2, 2)), [2, 4]),
    "chord": (lambda: chord([lab_add.s(1, 1), lab_add.s(2, 2)], lab_total.s()), 6),
}


@shared_task(name="tests.replace_itself_by", bind=True, ignore_result=False)
def replace_itself(self: JobTask, by: str) -> None:
    self.replace(REPLACEMENTS[by][0]())


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_what_replaces_a_task_runs_to_its_end_under_the_tasks_id(bench: Bench, by: str) -> None:
    result = replace_itself.delay(by)
    bench.run_all()
    # With a group ends a task of Celery's own, which keeps no result where `task_ignore_result` is on.
    assert result.get() == (None if by == "group" else REPLACEMENTS[by][1])
    assert bench.job(result).task != replace_itself.name


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_a_task_that_lost_its_lease_replaces_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(replace_itself, "run", partial(_lose_the_lease, replace_itself))
    replace_itself.delay(by)
    bench.run_due()
    assert [job.task for job in Job.objects.all()] == [replace_itself.name]
    assert Job.objects.get().state == Job.State.RUNNING


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_a_wish_to_cancel_that_a_task_has_not_seen_cancels_it_and_nothing_replaces_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(replace_itself, "run", partial(_be_cancelled, replace_itself))
    result = replace_itself.delay(by)
    bench.run_all()
    assert bench.job(result).state == Job.State.CANCELLED
    assert (Job.objects.count(), Chord.objects.count()) == (1, 0)


def test_a_part_that_is_cancelled_when_it_would_replace_itself_ends_the_chord(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replace_itself, "run", partial(_be_cancelled, replace_itself))
    result = chord([replace_itself.s("group"), lab_add.s(1, 2)])(keep.s())
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.DEPENDENCY


def _be_cancelled(task: JobTask, by: str) -> None:
    assert ledger.cancel(UUID(task.request.id)) == Job.State.RUNNING
    task.replace(REPLACEMENTS[by][0]())


def _lose_the_lease(task: JobTask, by: str) -> None:
    Job.objects.update(token=99)
    task.replace(REPLACEMENTS[by][0]())


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_what_replaces_a_link_or_a_part_takes_its_place(bench: Bench, by: str) -> None:
    in_a_chain = chain(replace_itself.s(by), keep.s()).apply_async()
    in_a_chord = chord([replace_itself.s(by), lab_add.s(1, 2)])(keep.s())
    bench.run_all()
    assert in_a_chain.get() == REPLACEMENTS[by][1]
    assert in_a_chord.get() == [REPLACEMENTS[by][1], 3]
