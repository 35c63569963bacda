"""Workers that die, and messages that would kill them."""

from collections.abc import Sequence
from uuid import UUID

from django.contrib.auth.models import User

import tasks
from apps.home.act import Seen, Started, ids, once_ended, times
from apps.home.acts.mischief import call_unknown_task, send_garbage
from apps.jobs.models import DeadLetter, Job


def crash_once(_: User) -> Started:
    return Started("Started a job that kills its own process the first time.", ids([tasks.lab_crash_once.delay().id]))


def crash_always(_: User) -> Started:
    return Started("Started a job that kills its process every time.", ids([tasks.lab_crash.delay().id]))


@once_ended
def survived(jobs: list[Job]) -> Seen:
    [job] = jobs
    held = job.state == Job.State.SUCCEEDED and job.crashes > 0
    return Seen(f"Its process died {times(job.crashes)}, and it ended as {job.state}.", held)


@once_ended
def buried_as_poison(jobs: list[Job]) -> Seen:
    [job] = jobs
    letter = DeadLetter.objects.filter(job_id=job.pk, kind=DeadLetter.Kind.CRASHED).first()
    return Seen(f"After {job.crashes + 1} dead processes it was given up: {letter or job.state}.", letter is not None)


def unknown_task(_: User) -> Started:
    return Started("Sent a call of a task that no worker knows.", (call_unknown_task(),))


def malformed_messages(_: User) -> Started:
    names = send_garbage()
    return Started(f"Sent {len(names)} messages that are no task calls, among them a pickle.", tuple(names))


def kept_as_letters(names: Sequence[UUID]) -> Seen:
    """These messages never became jobs; each has its name in its body, and so in its letter."""
    kept = sum(DeadLetter.objects.filter(job_id=None, args__0__icontains=str(name)).exists() for name in names)
    sentence = f"{kept} of {len(names)} lie in the dead letters, and the workers are alive."
    return Seen(sentence, True if kept == len(names) else None)
