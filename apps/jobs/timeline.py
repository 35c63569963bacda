"""A job's life as people read it: what happened, when, and what went wrong."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.dateparse import parse_datetime

from apps.jobs.models import Job

# A job is "due later" when someone asked for it; within a second it was only on its way.
AT_ONCE = timedelta(seconds=1)


@dataclass(frozen=True)
class Moment:
    """One line of the timeline. `mood` is ok, warn, bad, now or nothing; it colours the line."""

    what: str
    at: datetime | None = None
    mood: str = ""
    detail: str = ""
    traceback: str = ""


def timeline(job: Job) -> list[Moment]:
    moments = [Moment("Queued", job.created_at), *_failed_attempts(job), *_now(job)]
    return moments if job.finished_at is None else [*moments, _end(job)]


def _failed_attempts(job: Job) -> list[Moment]:
    return [
        Moment(
            what=f"Attempt {number} failed",
            at=parse_datetime(str(error.get("at"))),
            mood="bad",
            detail=f"{error.get('kind')}: {error.get('message')}",
            traceback=str(error.get("traceback") or ""),
        )
        for number, error in enumerate(job.errors, start=1)
    ]


def _now(job: Job) -> list[Moment]:
    """What goes on at this moment: waiting, on its way, or running. Earlier hand-overs are not kept."""
    match job.state:
        case Job.State.QUEUED if job.run_at - job.created_at > AT_ONCE:
            return [Moment("Waits until it is due", job.run_at, "now")]
        case Job.State.SENT:
            return [Moment("Handed to the broker", job.sent_at, "now")]
        case Job.State.RUNNING:
            return [Moment(f"Attempt {job.attempts} is running", job.started_at, "now", _worker(job))]
        case _ if job.started_at:
            return [Moment("Last started", job.started_at)]
    return []


def _worker(job: Job) -> str:
    return f"on {job.worker}" if job.worker_id and job.worker else ""


def _end(job: Job) -> Moment:
    mood = {Job.State.SUCCEEDED: "ok", Job.State.DEAD: "bad"}.get(Job.State(job.state), "warn")
    return Moment(Job.State(job.state).label, job.finished_at, mood)
