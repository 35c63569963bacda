"""A job's life as people read it: what happened, when, and what went wrong."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.dateparse import parse_datetime

from apps.jobs.models import Job, Worker

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
    moments = [Moment("Queued", job.created_at), *_failed_attempts(job), *_latest(job)]
    return _with_the_broker(moments, job.sent_at, job.state) if job.sent_at else moments


def _with_the_broker(moments: list[Moment], sent_at: datetime, state: str) -> list[Moment]:
    """The latest time that it was handed over, where it belongs: the row does not know of earlier ones."""
    handed_over = Moment("Handed to the broker", sent_at, "now" if state == Job.State.SENT else "")
    place = next((place for place, moment in enumerate(moments) if moment.at and moment.at > sent_at), len(moments))
    return [*moments[:place], handed_over, *moments[place:]]


def _failed_attempts(job: Job) -> list[Moment]:
    return [
        Moment(
            what=f"Attempt {error.get('attempt') or number} failed{_on(error.get('worker'))}",
            at=parse_datetime(str(error.get("at"))),
            mood="bad",
            detail=f"{error.get('exception')}: {error.get('message')}",
            traceback=str(error.get("traceback") or ""),
        )
        for number, error in enumerate(job.errors, start=1)
    ]


def _latest(job: Job) -> list[Moment]:
    """What goes on now, or how it ended. Of earlier attempts only the errors are kept."""
    match job.state:
        case Job.State.QUEUED if job.run_at - job.created_at > AT_ONCE:
            return [Moment("Waits until it is due", job.run_at, "now")]
        case Job.State.RUNNING:
            return [Moment(f"Attempt {job.attempts} is running", job.started_at, "now", _worker(job))]
        case Job.State.SUCCEEDED:
            return [Moment(f"Attempt {job.attempts} started", job.started_at, detail=_worker(job)), _end(job)]
        case Job.State.DEAD | Job.State.CANCELLED:
            return [_end(job)]
    return []


def _worker(job: Job) -> str:
    """Its row may be gone: workers are kept for a week."""
    worker = Worker.objects.filter(pk=job.worker_id).first() if job.worker_id else None
    return _on(worker).strip()


def _on(worker: object) -> str:
    return f" on {worker}" if worker else ""


def _end(job: Job) -> Moment:
    mood = {Job.State.SUCCEEDED: "ok", Job.State.DEAD: "bad"}.get(Job.State(job.state), "warn")
    return Moment(Job.State(job.state).label, job.finished_at, mood)
