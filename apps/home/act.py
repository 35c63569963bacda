"""An act shows one pattern for real: it starts jobs, and later says from what is left of them whether the pattern held.

The home page's buttons and `manage.py tour` play the same acts. Nothing is kept between the start and the verdict but
the jobs' ids, so that any web process can answer for the one that started them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import User

from apps.jobs.models import Job


@dataclass(frozen=True)
class Started:
    """What was done, as a sentence in the past tense, and the jobs whose ends will tell the rest."""

    did: str
    jobs: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What can be observed by now. `held` is None as long as it is too early to tell."""

    sentence: str
    held: bool | None = None


Verdict = Callable[[Sequence[UUID]], Seen]


@dataclass(frozen=True)
class Act:
    """`refusal`: the act is meant to be refused, and `start` raises this instead of starting anything.

    `seconds`: what `manage.py tour` grants the act before it calls it failed; most end within a second or two.
    """

    start: Callable[[User], Started]
    seen: Verdict
    refusal: type[Exception] | None = None
    seconds: int = 20


class CannotPlay(Exception):
    """The shop lacks something that an act needs. The message says what, to the person at the button."""


def ids(written: Iterable[str]) -> tuple[UUID, ...]:
    """Celery writes an id as text."""
    return tuple(UUID(job_id) for job_id in written)


def jobs_of(job_ids: Sequence[UUID]) -> list[Job]:
    """In the order of the ids; an id without a row is left out."""
    rows = Job.objects.in_bulk(list(job_ids))
    return [rows[job_id] for job_id in job_ids if job_id in rows]


def of_jobs(verdict: Callable[[list[Job]], Seen]) -> Verdict:
    """A verdict on the jobs as they are now, one of them at least."""

    def seen(job_ids: Sequence[UUID]) -> Seen:
        jobs = jobs_of(job_ids)
        return verdict(jobs) if jobs else Seen("There are no such jobs any more.", held=False)

    return seen


def once_ended(verdict: Callable[[list[Job]], Seen]) -> Verdict:
    """A verdict that has to wait until each of the jobs has ended."""

    @of_jobs
    def seen(jobs: list[Job]) -> Seen:
        live = [job for job in jobs if job.is_live]
        return Seen(_still(live, len(jobs))) if live else verdict(jobs)

    return seen


def _still(live: list[Job], total: int) -> str:
    if total > 1:
        return f"{total - len(live)} of {total} jobs have ended."
    return "It waits for its next attempt." if live[0].errors else "It has not ended yet."


@once_ended
def succeeded(jobs: list[Job]) -> Seen:
    """The plain verdict: every job succeeded."""
    good = sum(job.state == Job.State.SUCCEEDED for job in jobs)
    if len(jobs) > 1:
        return Seen(f"{good} of {len(jobs)} jobs succeeded.", good == len(jobs))
    [job] = jobs
    return Seen(f"It ended as {job.state} after {attempts(job)}.", good == 1)


def attempts(job: Job) -> str:
    return "one attempt" if job.attempts == 1 else f"{job.attempts} attempts"


def times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def seconds_between(earlier: object, later: object) -> float:
    """Of two of a job's times; a time that is missing counts as no time at all."""
    if earlier is None or later is None:
        return 0.0
    return float((later - earlier).total_seconds())  # type: ignore[operator]
