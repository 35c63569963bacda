"""Long work: a report with progress, files from strangers, a list imported in parts."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

import tasks
from apps.home.act import CannotPlay, Seen, Started, attempts, ids, once_ended, seconds_between
from apps.home.acts.mischief import deliver_again
from apps.jobs.models import Job
from apps.reports.models import Report
from apps.uploads import bucket
from apps.uploads.files import store
from apps.uploads.models import Upload
from apps.uploads.views import start

# Long enough to see the bar move.
CANCEL_AFTER = 3
SAMPLES = settings.BASE_DIR / "samples"


def report(user: User) -> Started:
    written, job_id = _report(user)
    return Started(f"Asked for “{written}”.", (job_id,))


def cancel_in_the_middle(_: User) -> Started:
    job = tasks.lab_sleep.delay(seconds=30, steps=60)
    tasks.lab_cancel.apply_async(kwargs={"job_id": job.id}, countdown=CANCEL_AFTER)
    return Started(f"Started half a minute of work, to be cancelled after {CANCEL_AFTER} s.", ids([job.id]))


def _report(user: User) -> tuple[Report, UUID]:
    today = timezone.now().date()
    with transaction.atomic():
        written = Report.objects.create(owner=user, start=today - timedelta(days=364), end=today)
        job_id = UUID(tasks.generate_report.delay(report_id=written.pk).id)
        Report.objects.filter(pk=written.pk).update(job_id=job_id)
    return written, job_id


@once_ended
def reported(jobs: list[Job]) -> Seen:
    done = (jobs[0].progress or {}).get("done")
    return Seen(f"It wrote {done} days of sales and ended as {jobs[0].state}.", jobs[0].state == Job.State.SUCCEEDED)


@once_ended
def stopped(jobs: list[Job]) -> Seen:
    [job] = jobs
    ran = seconds_between(job.started_at, job.finished_at)
    when = f"{ran:.1f} s after it was started" if job.started_at else "before it was started"
    return Seen(f"It ended as {job.state}, {when}.", job.state == Job.State.CANCELLED)


def good_upload(user: User) -> Started:
    return _upload(user, Upload.Kind.CSV, "products-small.csv")


def broken_upload(user: User) -> Started:
    return _upload(user, Upload.Kind.PICTURE, "bomb.png")


@once_ended
def refused_with_a_reason(jobs: list[Job]) -> Seen:
    reason = Upload.objects.get(pk=jobs[0].kwargs["upload_id"]).reason
    return Seen(f"Refused after {attempts(jobs[0])}: {reason}", jobs[0].state == Job.State.DEAD and bool(reason))


def long_list(user: User) -> Started:
    return _upload(user, Upload.Kind.CSV, "products-5000.csv")


def long_list_delivered_twice(user: User) -> Started:
    started = long_list(user)
    deliver_again(started.jobs[0], 5)
    return Started(f"{started.did} Then delivered its message five more times.", started.jobs)


@once_ended
def summed_up_once(jobs: list[Job]) -> Seen:
    """The first job only plans the parts; the upload is settled by the summary of the last."""
    upload = Upload.objects.get(pk=jobs[0].kwargs["upload_id"])
    parts = upload.parts.count()
    if not upload.is_settled:
        return Seen(f"{upload.parts_done} of {parts} parts are imported.")
    summaries = Job.objects.filter(task="tasks.summarise_import", kwargs__upload_id=upload.pk).count()
    sentence = f"{parts} parts, {summaries} summary: {upload.imported:,} rows imported, {upload.rejected} refused."
    return Seen(sentence, upload.state == Upload.State.DONE and summaries == 1)


def _upload(user: User, kind: Upload.Kind, name: str) -> Started:
    with (SAMPLES / name).open("rb") as content:
        try:
            upload = store(user, kind, name, content)
        except bucket.BucketUnavailable as error:
            raise CannotPlay(str(error)) from error
    start(upload)
    return Started(f"Uploaded {name}.", (UUID(str(upload.job_id)),))
