"""`manage.py dead_letters` and `manage.py queues`: what an operator types, and what they are told."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.jobs import dead_letters, queues, sensitive
from apps.jobs.management.arguments import duration, future, past
from apps.jobs.management.text import age, table
from apps.jobs.models import DeadLetter, Job, QueuePause
from apps.local.places import ROOT
from tests.nobody import NOBODY

pytestmark = pytest.mark.django_db


def run(*arguments: Any) -> str:
    output = StringIO()
    call_command(*map(str, arguments), stdout=output)
    return output.getvalue()


def letter(task: str = "tasks.lab_add", **fields: Any) -> DeadLetter:
    fields = {"kwargs": {"x": 1, "y": 2}, "queue": "default", "kind": "permanent", "fingerprint": "f1", **fields}
    return DeadLetter.objects.create(task=task, job_id=uuid4(), **fields)


def state_of(letter: DeadLetter) -> str:
    letter.refresh_from_db()
    return letter.state


# --- dead_letters list and show ---------------------------------------------------------------------------------------


def test_the_list_shows_one_line_a_letter_in_aligned_columns() -> None:
    letter(message="The card was declined.\nReally.")
    letter(task="tasks.lab_total", message="No numbers.", kind="exhausted")

    heading, newest, oldest = run("dead_letters", "list").splitlines()

    assert newest.index("No numbers.") == oldest.index("The card was declined. Really.") == heading.index("MESSAGE")


def test_an_error_message_cannot_steer_the_terminal() -> None:
    letter(message="\x1b[2J gone", traceback="one\n\x1b[31mtwo")

    assert "\x1b" not in run("dead_letters", "list")


def test_the_list_can_be_narrowed_down() -> None:
    letter(message="this one", fingerprint="abcdef")
    letter(message="of another task", task="tasks.lab_total", fingerprint="abcdef")
    letter(message="of another cause", fingerprint="ffffff")
    letter(message="too old", fingerprint="abcdef", created_at=timezone.now() - timedelta(hours=3))
    letter(message="resolved", fingerprint="abcdef", state="discarded")

    listed = run("dead_letters", "list", "--task", "tasks.lab_add", "--fingerprint", "abc", "--since", "2h")

    assert "this one" in listed
    assert len(listed.splitlines()) == 2


def test_a_long_list_says_how_much_more_there_is() -> None:
    for _ in range(3):
        letter()

    assert "… and 2 more." in run("dead_letters", "list", "--limit", 1)


@pytest.mark.parametrize("by", ["id", "job_id"])
def test_show_tells_everything_but_secrets(by: str) -> None:
    kwargs = sensitive.seal({"token": "hunter2-secret"}, ["token"])
    shown = letter(task="tasks.lab_secret", kwargs=kwargs, traceback="Traceback …\n  boom")

    output = run("dead_letters", "show", getattr(shown, by))

    assert '{"token": "***"}' in output
    assert "  boom" in output
    assert "__sealed__" not in output


def test_a_list_reads_no_more_of_a_letter_than_it_shows() -> None:
    letter(traceback="Traceback …", message="m" * 2_000)

    with CaptureQueriesContext(connection) as queries:
        listed = run("dead_letters", "list")

    assert not any("traceback" in query["sql"] or "kwargs" in query["sql"] for query in queries)
    assert listed.splitlines()[-1].endswith("mmm…")


@pytest.mark.parametrize("limit", ["-1", "ten", "9" * 20])
def test_a_limit_that_makes_no_sense_is_refused(limit: str) -> None:
    with pytest.raises(CommandError, match="not a number of rows"):
        run("dead_letters", "list", f"--limit={limit}")


def test_show_tells_when_a_letter_was_resolved_and_by_whom() -> None:
    at = datetime(2026, 2, 5, 9, tzinfo=UTC)
    shown = letter(state="discarded", resolved_at=at, resolved_by=User.objects.create_user("ada"), reason="Over.")

    output = run("dead_letters", "show", shown.id)

    assert "2026-02-05 09:00:00 UTC" in output
    assert "ada" in output


def test_an_unknown_id_is_an_error() -> None:
    with pytest.raises(CommandError, match="no dead letter"):
        run("dead_letters", "show", uuid4())


# --- dead_letters replay ----------------------------------------------------------------------------------------------


def test_replay_of_one_makes_a_new_job_and_names_it() -> None:
    dead = letter()

    output = run("dead_letters", "replay", dead.id)

    job = Job.objects.get()
    assert (job.task, job.kwargs, job.replay_of) == ("tasks.lab_add", {"x": 1, "y": 2}, dead.job_id)
    assert str(job.id) in output
    assert state_of(dead) == "replayed"


def test_replay_of_many_is_spread_over_the_time_that_is_given() -> None:
    for _ in range(4):
        letter()

    run("dead_letters", "replay", "--task", "tasks.lab_add", "--over", "20m")

    first, *_, last = Job.objects.order_by("run_at").values_list("run_at", flat=True)
    assert timedelta(minutes=14) < last - first < timedelta(minutes=16)


NARROWED_DOWN = ["--task=tasks.lab_add", "--fingerprint=abc", "--since=2h"]


def chosen_and_others() -> tuple[DeadLetter, list[DeadLetter]]:
    """The one letter that all three options mean, and for each of them one that only this option leaves out."""
    chosen = letter(fingerprint="abcdef")
    others = [
        letter(fingerprint="abcdef", task="tasks.lab_total", kwargs={"numbers": [1]}),
        letter(fingerprint="ffabcd"),
        letter(fingerprint="abcdef", created_at=timezone.now() - timedelta(hours=3)),
    ]
    return chosen, others


@pytest.mark.parametrize(("action", "state"), [(["replay"], "replayed"), (["discard", "--reason=x"], "discarded")])
def test_only_what_every_option_means_is_replayed_or_discarded(action: list[str], state: str) -> None:
    chosen, others = chosen_and_others()

    run("dead_letters", *action, *NARROWED_DOWN)

    assert (state_of(chosen), set(map(state_of, others))) == (state, {"open"})
    assert Job.objects.count() == (state == "replayed")


@pytest.mark.parametrize("option", range(3))
@pytest.mark.parametrize("action", [["replay"], ["discard", "--reason=x"]])
def test_each_option_is_enough_to_say_which_ones(action: list[str], option: int) -> None:
    chosen, others = chosen_and_others()

    run("dead_letters", *action, NARROWED_DOWN[option])

    still_open = [other for other in others if state_of(other) == "open"]
    assert state_of(chosen) != "open"
    assert still_open == [others[option]]


def test_a_dry_run_changes_nothing_and_says_how_many() -> None:
    dead = letter()
    letter(task="tasks.lab_total")

    assert "1 would be replayed." in run("dead_letters", "replay", "--task", "tasks.lab_add", "--dry-run")
    assert "2 would be discarded." in run("dead_letters", "discard", "--all", "--reason", "why not", "--dry-run")
    assert (state_of(dead), Job.objects.count()) == ("open", 0)


def test_a_dry_run_of_one_fails_as_the_replay_would() -> None:
    dead = letter()

    with pytest.raises(CommandError, match="do not fit"):
        run("dead_letters", "replay", dead.id, "--set", "z=1", "--dry-run")
    assert "1 would be replayed." in run("dead_letters", "replay", dead.id, "--set", "y=4", "--dry-run")
    assert (state_of(dead), Job.objects.count()) == ("open", 0)


def test_all_is_never_meant_by_accident() -> None:
    letter()

    for action in (["replay"], ["discard", "--reason", "oops"]):
        with pytest.raises(CommandError, match="Which ones"):
            run("dead_letters", *action)


@pytest.mark.parametrize("option", ["--task=", "--fingerprint= "])
def test_an_option_that_a_script_left_empty_does_not_mean_all(option: str) -> None:
    dead = letter()

    with pytest.raises(CommandError, match="it is empty"):
        run("dead_letters", "discard", "--reason", "oops", "--since=1d", option)
    assert state_of(dead) == "open"


def test_an_argument_can_be_corrected() -> None:
    run("dead_letters", "replay", letter().id, "--set", "y=40")

    assert Job.objects.get().kwargs == {"x": 1, "y": 40}


def test_a_positional_argument_can_be_corrected_by_its_name() -> None:
    run("dead_letters", "replay", letter(args=[1, 2], kwargs={}).id, "--set", "y=40")

    assert Job.objects.get().kwargs == {"x": 1, "y": 40}


def test_what_is_not_json_is_a_text() -> None:
    run("dead_letters", "replay", letter(task="tasks.lab_unique", kwargs={"key": "a"}).id, "--set", "key=b=c")

    assert Job.objects.get().kwargs == {"key": "b=c"}


def test_all_arguments_can_be_replaced() -> None:
    run("dead_letters", "replay", letter(kwargs={"wrong": 1}).id, "--kwargs", json.dumps({"x": 3, "y": 4}))

    assert Job.objects.get().kwargs == {"x": 3, "y": 4}


def test_a_corrected_secret_is_not_shown() -> None:
    dead = letter(task="tasks.lab_secret", kwargs=sensitive.seal({"token": "old-secret"}, ["token"]))

    output = run("dead_letters", "replay", dead.id, "--set", "token=new-secret")

    assert "new-secret" not in output
    assert sensitive.unseal(Job.objects.get().kwargs) == {"token": "new-secret"}


def test_arguments_that_do_not_fit_the_task_leave_the_letter_open() -> None:
    dead = letter()

    with pytest.raises(CommandError, match="do not fit"):
        run("dead_letters", "replay", dead.id, "--set", "z=1")
    assert (state_of(dead), Job.objects.count()) == ("open", 0)


@pytest.mark.parametrize("value", ["NaN", '"\\u0000"', '"\\ud800"', '{"__type__": "uuid", "__value__": 5}'])
def test_a_value_that_cannot_be_stored_is_an_error(value: str) -> None:
    dead = letter()

    with pytest.raises(CommandError):
        run("dead_letters", "replay", dead.id, "--set", f"y={value}")
    assert (state_of(dead), Job.objects.count()) == ("open", 0)


def test_arguments_that_are_not_json_are_called_so() -> None:
    with pytest.raises(CommandError, match="this is not JSON"):
        run("dead_letters", "replay", letter().id, "--kwargs", "{y: 1}")


def test_a_masked_secret_among_arguments_that_are_replaced_is_the_secret_again() -> None:
    dead = letter(task="tasks.lab_secret", kwargs=sensitive.seal({"token": "hunter2-secret"}, ["token"]))

    run("dead_letters", "replay", dead.id, "--kwargs", '{"token": "***"}')

    assert sensitive.unseal(Job.objects.get().kwargs) == {"token": "hunter2-secret"}


def test_a_letter_that_somebody_was_quicker_with_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before_it_was_locked = dead_letters.replay

    def replay(letter_id: Any, **options: Any) -> Any:
        DeadLetter.objects.update(state="discarded")
        return before_it_was_locked(letter_id, **options)

    monkeypatch.setattr(dead_letters, "replay", replay)
    with pytest.raises(CommandError, match="resolved it meanwhile"):
        run("dead_letters", "replay", letter().id)


def test_what_dies_during_a_replay_is_not_called_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    replay_many = dead_letters.replay_many

    def meanwhile(*args: Any, **options: Any) -> list[Any]:
        letter()
        return replay_many(*args, **options)

    monkeypatch.setattr(dead_letters, "replay_many", meanwhile)
    letter()
    letter()

    assert "Replayed 2." in run("dead_letters", "replay", "--all")
    assert DeadLetter.objects.filter(state="open").count() == 1


def test_arguments_are_changed_for_one_letter_only() -> None:
    with pytest.raises(CommandError, match="one letter at a time"):
        run("dead_letters", "replay", letter().id, letter().id, "--set", "y=1")


def test_what_cannot_be_replayed_stays_open_and_is_an_error() -> None:
    letter()
    unknown = letter(task="tasks.of_yesterday")

    with pytest.raises(CommandError, match="1 cannot be replayed"):
        run("dead_letters", "replay", "--all")
    assert (state_of(unknown), Job.objects.count()) == ("open", 1)


def test_an_id_that_is_not_open_is_an_error_before_anything_is_done() -> None:
    dead = letter()

    with pytest.raises(CommandError, match="No open dead letter"):
        run("dead_letters", "replay", dead.id, UUID(int=0))
    assert state_of(dead) == "open"


# --- dead_letters discard ---------------------------------------------------------------------------------------------


def test_discard_closes_the_letter_and_keeps_the_reason() -> None:
    dead = letter()

    assert "Discarded 1." in run("dead_letters", "discard", dead.id, "--reason", "The shop is closed.")
    assert (state_of(dead), dead.reason) == ("discarded", "The shop is closed.")


def test_discard_needs_a_reason() -> None:
    dead = letter()

    with pytest.raises(CommandError, match="--reason"):
        run("dead_letters", "discard", dead.id)
    with pytest.raises(CommandError, match="why"):
        run("dead_letters", "discard", dead.id, "--reason", " ")


# --- queues -----------------------------------------------------------------------------------------------------------


def test_queues_shows_every_queue_and_what_waits_in_it() -> None:
    for minutes in (-5, -1, 60):
        run_at = timezone.now() + timedelta(minutes=minutes)
        Job.objects.create(task="tasks.lab_nothing", queue="low", run_at=run_at)

    lines = {line.split()[0]: line.split() for line in run("queues").splitlines()}

    assert lines["low"] == ["low", "2", "5m", "1", "0"]
    assert lines["high"] == ["high", "0", "0", "0"]


def test_a_queue_is_paused_with_a_reason_and_resumed() -> None:
    assert "until resumed: The supplier is down." in run("queues", "pause", "io", "--reason", "The supplier is down.")
    assert QueuePause.objects.filter(queue="io").exists()

    assert "supplier" not in run("queues", "resume", "io")
    assert not QueuePause.objects.exists()


def test_a_pause_can_end_by_itself() -> None:
    run("queues", "pause", "io", "--reason", "Maintenance.", "--until", "2h")

    until = QueuePause.objects.get().until
    assert until is not None
    assert timedelta(minutes=119) < until - timezone.now() <= timedelta(hours=2)


def test_a_pause_whose_end_is_far_away_is_refused() -> None:
    with pytest.raises(CommandError, match="within a year"):
        run("queues", "pause", "io", "--reason", "Maintenance.", "--until", "9999-12-31T23:59-12:00")
    assert "Maintenance" not in run("queues")


@pytest.mark.parametrize("until", ["2026-02-05T09:00", "0m"])
def test_a_pause_that_would_be_over_already_is_refused(until: str) -> None:
    with pytest.raises(CommandError, match="over already"):
        run("queues", "pause", "io", "--reason", "Maintenance.", "--until", until)
    assert not QueuePause.objects.exists()


def test_a_pause_that_is_over_is_not_shown() -> None:
    queues.pause("io", "Maintenance.", until=timezone.now() - timedelta(seconds=1))

    assert "Maintenance" not in run("queues")


@pytest.mark.parametrize("arguments", [["pause", "nowhere", "--reason", "x"], ["resume", "low"], ["pause", "low"]])
def test_a_pause_that_makes_no_sense_is_an_error(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        run("queues", *arguments)


# --- Times and tables -------------------------------------------------------------------------------------------------


def test_times_are_read_as_a_person_types_them() -> None:
    assert duration("90s") == timedelta(seconds=90)
    assert past("2026-02-05T09:00").isoformat() == "2026-02-05T09:00:00+00:00"
    assert past("2h") < timezone.now() < future("1d")


@pytest.mark.parametrize("text", ["", "soon", "10", "-5m", "2026-13-45T99:00"])
def test_a_time_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="not a time"):
        run("dead_letters", "list", f"--since={text}")


def test_a_time_before_the_calendar_is_refused() -> None:
    with pytest.raises(CommandError, match="no calendar"):
        run("dead_letters", "list", "--since=999999d")


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (59, "59s"), (61, "1m"), (7200, "2h"), (200_000, "2d")])
def test_an_age_is_told_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_numbers_stand_right_in_a_table() -> None:
    assert table(("N", "NAME"), [(5, "a"), (10, "b")]).splitlines() == [" N  NAME", " 5  a", "10  b"]


# --- Bad moments ------------------------------------------------------------------------------------------------------


def test_a_time_that_the_database_does_not_know_is_a_sentence() -> None:
    with pytest.raises(CommandError, match="time zone displacement"):
        run("dead_letters", "list", "--since=2026-02-05T09:00+23:00")


@pytest.mark.parametrize("command", [["dead_letters", "list"], ["queues"]])
def test_without_a_database_a_command_ends_with_a_sentence(command: list[str]) -> None:
    with typed_at_a_prompt(command, f"postgres://{NOBODY}/nightshift") as typed:
        _, said = typed.communicate()
    assert typed.returncode == 1
    assert said.startswith("CommandError: The database has not done it: connection failed")
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [["dead_letters", "list"], ["queues"]])
def test_a_reader_that_has_seen_enough_is_no_error(
    transactional_db: None, servers: dict[str, str], command: list[str]
) -> None:
    base, _, _ = servers["DATABASE_URL"].rpartition("/")
    with typed_at_a_prompt(command, f"{base}/{connection.settings_dict['NAME']}") as typed:
        assert typed.stdout is not None
        typed.stdout.close()  # as `head` does
        assert typed.stderr is not None
        assert typed.stderr.read() == ""
    assert typed.returncode == 1


def typed_at_a_prompt(command: list[str], database: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
