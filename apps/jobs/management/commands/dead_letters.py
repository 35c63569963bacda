import argparse
import json
import shutil
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery import current_app
from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Left

from apps.jobs import dead_letters, sensitive
from apps.jobs.clock import database_now
from apps.jobs.dead_letters import NotReplayable
from apps.jobs.management.arguments import duration, number, past, something
from apps.jobs.management.operator import OperatorCommand
from apps.jobs.management.text import ago, plain, plain_lines, shorten, table
from apps.jobs.models import DeadLetter

HEADINGS = ("ID", "AGE", "KIND", "TASK", "QUEUE", "TRIES", "CAUSE", "MESSAGE")
# Where the output is not a terminal, nothing says how wide it may be.
WIDTH_IN_A_FILE = 200
# Wider than any terminal.
LONGEST_LINE = 500
# Enough of a fingerprint to tell causes apart, and for --fingerprint.
FINGERPRINT = 8


class Command(OperatorCommand):
    help = "Reviews, replays and discards dead letters."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list | show | replay | discard")
        listing = actions.add_parser("list", help="Open letters, the newest first.")
        listing.add_argument("--limit", type=number, default=50)
        _add_filters(listing)

        show = actions.add_parser("show", help="One letter with its arguments and traceback.")
        show.add_argument("id", type=UUID, help="Of the letter, or of its job.")

        replay = actions.add_parser("replay", help="Make new jobs of open letters.")
        replay.add_argument("--over", type=duration, default=timedelta(0), help="Spread them evenly over 10m.")
        replay.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="Change an argument (one id)."
        )
        replay.add_argument("--kwargs", type=_mapping, metavar="JSON", help="Replace all arguments (one id).")
        _add_choice(replay)

        discard = actions.add_parser("discard", help="Close open letters without a replay.")
        discard.add_argument("--reason", required=True, help="For the next person who asks.")
        _add_choice(discard)

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        getattr(self, f"_{action}")(**options)

    def _list(self, limit: int, **options: Any) -> None:
        letters = _filtered(options).order_by("-created_at")
        count = letters.count()
        if not count:
            self.stdout.write("No open dead letters.")
            return
        self._print(letters[:limit])
        if count > limit:
            self.stdout.write(f"… and {count - limit:,} more. Narrow it down, or raise --limit.")

    def _print(self, letters: "QuerySet[DeadLetter]") -> None:
        """Reads what it shows alone: a hundred thousand letters with their tracebacks are a gigabyte."""
        columns = ("kind", "task", "queue", "attempts", Left("fingerprint", FINGERPRINT), Left("message", LONGEST_LINE))
        rows = [
            [letter_id, ago(created_at), *rest]
            for letter_id, created_at, *rest in letters.values_list("id", "created_at", *columns)
        ]
        width = shutil.get_terminal_size().columns if self.stdout.isatty() else WIDTH_IN_A_FILE
        for line in table(HEADINGS, rows).splitlines():
            self.stdout.write(shorten(line, width))

    def _show(self, id: UUID, **options: Any) -> None:  # noqa: A002  (the argument's name on the command line)
        letter = DeadLetter.objects.filter(_is_one_of([id])).first()
        if letter is None:
            raise CommandError(f"There is no dead letter {id}.")
        facts = [
            ("id", letter.id),
            ("job", letter.job_id),
            ("task", letter.task),
            ("args", json.dumps(sensitive.mask(letter.args), default=str)),
            ("kwargs", json.dumps(sensitive.mask(letter.kwargs), default=str)),
            ("queue", letter.queue),
            ("kind", letter.get_kind_display()),
            ("error", f"{letter.exception}: {letter.message}"),
            ("attempts", letter.attempts),
            ("created", f"{letter.created_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("fingerprint", letter.fingerprint),
            ("state", letter.state),
            ("resolved", letter.resolved_at and f"{letter.resolved_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("resolved by", letter.resolved_by),
            ("reason", letter.reason),
            ("replayed by", letter.replay_id),
        ]
        for name, value in facts:
            if value not in (None, ""):
                self.stdout.write(f"{name:<12} {plain(value)}")
        if letter.traceback:
            self.stdout.write("\n" + plain_lines(letter.traceback))

    def _replay(self, *, over: timedelta, dry_run: bool, **options: Any) -> None:
        changes, kwargs = options.pop("set"), options.pop("kwargs")
        # What dies meanwhile, these very jobs perhaps once more, is not among those that cannot be replayed.
        letters = self._chosen(options).filter(created_at__lte=database_now())
        some = list(letters[:2])
        one = some[0] if len(some) == 1 else None
        if (changes or kwargs is not None) and one is None:
            raise CommandError("Arguments can be changed for one letter at a time: name its id.")
        if one is not None:
            job_id = self._replay_one(one, self._edited(one, changes, kwargs), dry_run)
        if self._is_rehearsal(letters, "replayed", dry_run):
            return
        if one is not None:
            self.stdout.write(f"Replayed as {job_id}.")
        else:
            self._replay_many(letters, over)

    def _edited(self, letter: DeadLetter, changes: list[str], kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
        """The new arguments, shown before they are used; None if they stay as they are."""
        if not changes and kwargs is None:
            return None
        try:
            before = dead_letters.named_arguments(letter) if kwargs is None else kwargs
        except NotReplayable as exc:
            raise CommandError(str(exc)) from exc
        edited = dead_letters.with_secrets({**before, **dict(map(_change, changes))}, letter)
        secret = getattr(current_app.tasks.get(letter.task), "sensitive", ())
        shown = sensitive.mask(sensitive.seal(edited, secret))
        self.stdout.write(f"{letter.task} {plain(json.dumps(shown, default=str))}")
        return edited

    def _replay_one(self, letter: DeadLetter, kwargs: dict[str, Any] | None, dry_run: bool) -> Any:
        """The new job's id. A rehearsal is the replay itself, taken back: it fails as that would."""
        try:
            with transaction.atomic():
                job_id = dead_letters.replay(letter.pk, kwargs=kwargs)
                transaction.set_rollback(dry_run)
        except ValueError as exc:  # NotReplayable, or what PostgreSQL cannot store
            raise CommandError(str(exc)) from exc
        if job_id is None:
            raise CommandError("Somebody has resolved it meanwhile: nothing was done.")
        return job_id

    def _replay_many(self, letters: "QuerySet[DeadLetter]", over: timedelta) -> None:
        made = dead_letters.replay_many(letters, over=over)
        self.stdout.write(f"Replayed {len(made):,}.")
        left = letters.count()
        if left:
            raise CommandError(f"{left:,} cannot be replayed and stay open: replay one alone, and it says why.")

    def _discard(self, *, reason: str, dry_run: bool, **options: Any) -> None:
        letters = self._chosen(options)
        if not self._is_rehearsal(letters, "discarded", dry_run):
            try:
                self.stdout.write(f"Discarded {dead_letters.discard(letters, reason):,}.")
            except ValueError as exc:
                raise CommandError(str(exc)) from exc

    def _is_rehearsal(self, letters: "QuerySet[DeadLetter]", done: str, dry_run: bool) -> bool:
        if dry_run:
            self._print(letters.order_by("created_at"))
            self.stdout.write(f"{letters.count():,} would be {done}.")
        return dry_run

    def _chosen(self, options: dict[str, Any]) -> "QuerySet[DeadLetter]":
        """The letters of the given ids, or those that the filters find; all of them only if that is said."""
        letters, ids = _filtered(options), options["ids"]
        if not (ids or options["all"] or options["task"] or options["fingerprint"] or options["since"]):
            raise CommandError("Which ones? Name ids, narrow them down with --task, --fingerprint, --since, or --all.")
        if ids:
            letters = letters.filter(_is_one_of(ids))
            self._check_all_found(letters, ids)
        return letters

    def _check_all_found(self, letters: "QuerySet[DeadLetter]", ids: list[UUID]) -> None:
        found = {known for pair in letters.values_list("id", "job_id") for known in pair}
        missing = [str(letter_id) for letter_id in ids if letter_id not in found]
        if missing:
            raise CommandError(f"No open dead letter: {', '.join(missing)}")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", type=something, help="Its whole name.")
    parser.add_argument("--fingerprint", type=something, help="The beginning is enough.")
    parser.add_argument("--since", type=past, help="2h ago, or 2026-02-05T09:00 (UTC).")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=UUID, help="Of letters, or of their jobs.")
    parser.add_argument("--all", action="store_true", help="Every open letter.")
    parser.add_argument("--dry-run", action="store_true", help="Only say what would be done.")
    _add_filters(parser)


def _filtered(options: dict[str, Any]) -> "QuerySet[DeadLetter]":
    return dead_letters.matching(options["task"], options["fingerprint"], options["since"])


def _is_one_of(ids: list[UUID]) -> Q:
    return Q(pk__in=ids) | Q(job_id__in=ids)


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"this is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("the arguments are a JSON object by name")
    return value


def _change(text: str) -> tuple[str, Any]:
    """`amount=5` is a number and `name=Ada` a text; `name='"5"'` is a text, too."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise CommandError(f"{text!r} is not KEY=VALUE.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
