"""What the machinery keeps in PostgreSQL: jobs, dead letters, workers, queues, schedules.

`Job` is the ledger. Its rows change only through `apps.jobs.ledger`; read them anywhere.
"""

import json
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from kombu.utils.json import JSONEncoder, object_hook

from apps.jobs.ids import uuid7


class MessageDecoder(json.JSONDecoder):
    """JSON in Celery's dialect: dates, UUIDs and decimals come back as what they were."""

    def __init__(self, **options: Any) -> None:
        super().__init__(object_hook=object_hook, **options)


def message_json(**options: Any) -> "models.JSONField[Any, Any]":
    return models.JSONField(encoder=JSONEncoder, decoder=MessageDecoder, **options)


class Job(models.Model):
    """One wish to run a task. Its id is Celery's task id, and stays the same through every attempt."""

    class State(models.TextChoices):
        QUEUED = "queued"  # due at run_at, now or later; also between retries
        SENT = "sent"  # handed to the broker
        RUNNING = "running"  # claimed by a worker, under lease
        SUCCEEDED = "succeeded"
        DEAD = "dead"  # see its dead letter
        CANCELLED = "cancelled"

    LIVE = (State.QUEUED, State.SENT, State.RUNNING)
    ENDED = (State.SUCCEEDED, State.DEAD, State.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid7)
    task = models.CharField(max_length=255)
    args = message_json(default=list)
    kwargs = message_json(default=dict)
    options = message_json(default=dict, help_text="What canvas needs: links, chord, chain, group, headers, limits.")
    queue = models.CharField(max_length=100)
    priority = models.SmallIntegerField(null=True)
    state = models.CharField(max_length=10, choices=State, db_default=State.QUEUED)

    retries = models.IntegerField(db_default=0, help_text="Celery's count: planned retries after an error.")
    attempts = models.IntegerField(db_default=0, help_text="Claims, less those that a deploy handed back.")
    crashes = models.IntegerField(db_default=0, help_text="Attempts that took their worker down, or lost it.")
    token = models.IntegerField(db_default=0, help_text="Fencing token: raised by every claim, never lowered.")
    begun_token = models.IntegerField(null=True, help_text="Token of the last attempt that said: my body begins.")

    run_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    snoozed_since = models.DateTimeField(null=True, help_text="Since when it has done nothing but wait.")
    worker = models.ForeignKey("Worker", models.DO_NOTHING, null=True, db_constraint=False, db_index=False)

    unique_key = models.CharField(max_length=255, null=True, help_text="Held by at most one job.")
    unique_until = models.CharField(max_length=10, null=True, help_text='Key is held until "started" or "finished"…')
    unique_expires_at = models.DateTimeField(null=True, help_text="…or at least until this time.")
    running_key = models.CharField(max_length=255, null=True, help_text="The limit of which it holds a slot.")
    cancel_requested = models.BooleanField(db_default=False)

    progress = models.JSONField(null=True)
    result = message_json(null=True)
    errors = models.JSONField(default=list, db_default=[], help_text="One entry a failed attempt.")

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, db_constraint=False, related_name="+", db_index=False
    )
    parent_id = models.UUIDField(null=True, help_text="The job that asked for this one.")
    root_id = models.UUIDField(null=True)
    replay_of = models.UUIDField(null=True)

    class Meta:
        # Partial indexes on the live states only: a million finished rows cost the hot path nothing.
        indexes = [
            models.Index(fields=["queue", "run_at"], name="job_due", condition=Q(state="queued")),
            models.Index(fields=["queue", "sent_at"], name="job_sent", condition=Q(state="sent")),
            models.Index(fields=["lease_until"], name="job_lease", condition=Q(state="running")),
            models.Index(
                fields=["running_key"], name="job_running_key", condition=Q(state="running", running_key__isnull=False)
            ),
            models.Index(
                fields=["finished_at"], name="job_finished", condition=Q(state__in=["succeeded", "dead", "cancelled"])
            ),
            # For those who look at a million ended jobs: written once a job, at its end. See `apps.jobs.paging`.
            models.Index(
                fields=["created_at"], name="job_ended", condition=Q(state__in=["succeeded", "dead", "cancelled"])
            ),
            models.Index(
                fields=["task", "created_at"],
                name="job_ended_task",
                condition=Q(state__in=["succeeded", "dead", "cancelled"]),
            ),
            models.Index(
                fields=["queue", "created_at"],
                name="job_ended_queue",
                condition=Q(state__in=["succeeded", "dead", "cancelled"]),
            ),
            models.Index(
                fields=["state", "created_at"], name="job_unhappy", condition=Q(state__in=["dead", "cancelled"])
            ),
            models.Index(fields=["parent_id"], name="job_parent", condition=Q(parent_id__isnull=False)),
            models.Index(fields=["replay_of"], name="job_replay", condition=Q(replay_of__isnull=False)),
        ]
        constraints = [
            models.UniqueConstraint(fields=["unique_key"], name="job_unique", condition=Q(unique_key__isnull=False)),
            models.CheckConstraint(
                name="job_ended_has_an_end",
                condition=Q(state__in=["succeeded", "dead", "cancelled"], finished_at__isnull=False)
                | Q(state__in=["queued", "sent", "running"], finished_at__isnull=True),
            ),
        ]
        permissions = [
            ("cancel_job", "Can cancel a job"),
            ("run_job", "Can run or retry a waiting job now"),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE


class Chord(models.Model):
    """A body that waits for its header. Counted down in the same transaction that ends a part."""

    id = models.UUIDField(primary_key=True)  # the header's group id
    body = message_json()
    body_id = models.UUIDField(db_index=True)
    header = models.JSONField(help_text="Ids of the parts, nested as their results will be.")
    waits_for = models.IntegerField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"chord {self.id}: {self.waits_for} to go"


class DeadLetter(models.Model):
    """An end that is not success, whatever the way there; with all that is needed to understand and repeat it."""

    class Kind(models.TextChoices):
        EXHAUSTED = "exhausted", "retries exhausted"
        PERMANENT = "permanent", "permanent error"
        TIME_LIMIT = "time_limit", "time limit"
        CRASHED = "crashed", "worker crashed"
        OUT_OF_MEMORY = "out_of_memory", "out of memory"
        WRONG_ARGUMENTS = "wrong_arguments", "wrong arguments"
        UNKNOWN_TASK = "unknown_task", "unknown task"
        UNDECODABLE = "undecodable", "undecodable message"
        BAD_RESULT = "bad_result", "result cannot be stored"
        EXPIRED = "expired", "expired"
        REJECTED = "rejected", "rejected"
        DEPENDENCY = "dependency", "a job it waited for died"

    class State(models.TextChoices):
        OPEN = "open"
        REPLAYED = "replayed"
        DISCARDED = "discarded"

    id = models.UUIDField(primary_key=True, default=uuid7)
    # A job dies once, so it has one letter at most. A message that never was a job has none to point to.
    job_id = models.UUIDField(null=True, unique=True)
    durable = models.BooleanField(default=True)
    task = models.CharField(max_length=255)
    args = message_json(default=list)
    kwargs = message_json(default=dict)
    options = message_json(default=dict)
    queue = models.CharField(max_length=100)
    kind = models.CharField(max_length=20, choices=Kind)
    exception = models.CharField(max_length=255, blank=True)
    message = models.TextField(blank=True)
    traceback = models.TextField(blank=True)
    fingerprint = models.CharField(max_length=32, db_index=True, help_text="Task, exception and last own frame.")
    attempts = models.IntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now(), db_index=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolved_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    reason = models.TextField(blank=True, help_text="Why it was resolved so.")
    replay_id = models.UUIDField(null=True, blank=True, help_text="The job that replays it.")

    class Meta:
        indexes = [
            models.Index(fields=["fingerprint", "created_at"], name="letter_open", condition=Q(state="open")),
            models.Index(fields=["resolved_at"], name="letter_resolved", condition=~Q(state="open")),
            models.Index(fields=["replay_id"], name="letter_replay", condition=Q(replay_id__isnull=False)),
            # For the console's filters. A letter is written once for many jobs that need none.
            *(
                models.Index(fields=[column, "created_at"], name=f"letter_{column}")
                for column in ("task", "queue", "kind")
            ),
        ]
        permissions = [
            ("replay_deadletter", "Can replay a dead letter"),
            ("discard_deadletter", "Can discard a dead letter"),
        ]

    def __str__(self) -> str:
        return f"{self.task}: {self.get_kind_display()}"


class Counts(models.Model):
    """How often something happened to the jobs of a task in a queue. Written by `apps.jobs.metrics.counts` alone."""

    task = models.CharField(max_length=255, help_text='"unknown", if the process that counted did not know it.')
    queue = models.CharField(max_length=100)

    sent = models.BigIntegerField(default=0, help_text="Messages that a relay handed to the broker.")
    received = models.BigIntegerField(default=0, help_text="Messages that a worker took from the broker.")
    started = models.BigIntegerField(default=0, help_text="Messages that a worker's pool took up.")
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0, help_text="Attempts after which the job is not tried again.")
    retried = models.BigIntegerField(default=0, help_text="Attempts after which it is: an error, or a lost process.")
    revoked = models.BigIntegerField(default=0, help_text="Jobs that were cancelled while they ran, or expired.")
    rescued = models.BigIntegerField(default=0, help_text="Jobs whose worker died, and were handed on.")
    duplicates = models.BigIntegerField(default=0, help_text="Messages that were dropped: their job was taken or over.")
    snoozed = models.BigIntegerField(default=0)

    wait_seconds = models.FloatField(default=0.0, help_text="Sum of the times from due to started.")
    wait_buckets = ArrayField(models.BigIntegerField(), help_text="One for each of `counts.BOUNDS`, and one above.")
    run_seconds = models.FloatField(default=0.0, help_text="Sum of the run times of attempts that succeeded.")
    run_buckets = ArrayField(models.BigIntegerField(), help_text="As the waits.")

    class Meta:
        abstract = True


class TaskMinute(Counts):
    """One minute of it, for charts. Deleted after a while."""

    minute = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["minute", "task", "queue"], name="one_row_a_minute")]

    def __str__(self) -> str:
        return f"{self.minute:%H:%M} {self.task} in {self.queue}"


class TaskTotal(Counts):
    """All of it, since the first migration: a counter in the sense of Prometheus, which never falls."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["task", "queue"], name="one_total")]

    def __str__(self) -> str:
        return f"{self.task} in {self.queue}"


class QueueMinute(models.Model):
    """How a queue stood in one minute, at its worst. Written by `apps.jobs.metrics.samples`; deleted after a while."""

    minute = models.DateTimeField()
    queue = models.CharField(max_length=100)
    waiting = models.IntegerField()
    running = models.IntegerField()
    oldest = models.FloatField(help_text="Age of the oldest job that waited, in seconds.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["minute", "queue"], name="one_sample_a_minute")]

    def __str__(self) -> str:
        return f"{self.minute:%H:%M} {self.queue}"


class FleetMinute(models.Model):
    """How busy the workers were in one minute: sums over the samples, so that `busy / size` is their mean."""

    minute = models.DateTimeField(primary_key=True)
    busy = models.IntegerField()
    size = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.minute:%H:%M} {self.busy} of {self.size}"


class Worker(models.Model):
    """One run of a worker's main process. It is alive as long as it keeps its heartbeat fresh."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    name = models.CharField(max_length=255)
    pid = models.IntegerField()
    queues = models.JSONField(default=list)
    pool = models.CharField(max_length=50)
    size = models.IntegerField(default=0, help_text="Jobs that it can run at once.")
    busy = models.IntegerField(default=0)
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now(), db_index=True)
    stopped_at = models.DateTimeField(null=True)
    # Written by `apps.jobs.health.liveness`.
    consuming = models.JSONField(default=list, help_text="The queues that it listens to at this moment.")
    took_up_at = models.DateTimeField(null=True, help_text="When it last took up a message.")

    def __str__(self) -> str:
        return self.name


class Heartbeat(models.Model):
    """One run of a relay or a beat, as `Worker` is one of a worker. Written by `apps.jobs.health.heartbeats` alone."""

    class Process(models.TextChoices):
        RELAY = "relay"
        BEAT = "beat"

    name = models.CharField(max_length=255, primary_key=True)
    process = models.CharField(max_length=10, choices=Process)
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    trouble = models.TextField(blank=True, help_text="What keeps it from its work.")
    seen = models.JSONField(default=dict, help_text="What a relay saw at the broker.")

    def __str__(self) -> str:
        return self.name


class QueuePause(models.Model):
    """A queue that an operator has paused: its jobs stay queued in the ledger."""

    queue = models.CharField(max_length=100, primary_key=True)
    reason = models.TextField(blank=True)
    until = models.DateTimeField(null=True, blank=True, help_text="When it resumes by itself; empty: never.")
    paused_at = models.DateTimeField(default=timezone.now)
    paused_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        verbose_name = "paused queue"
        verbose_name_plural = "queues"
        permissions = [("pause_queue", "Can pause and resume a queue")]

    def __str__(self) -> str:
        return f"{self.queue} paused"


class RateWindow(models.Model):
    """When the places of a limit were taken, where there is no Redis to count them: see `apps.jobs.windows`."""

    key = models.CharField(max_length=255, primary_key=True)
    taken_at = ArrayField(models.DateTimeField())

    def __str__(self) -> str:
        return self.key


class BrokerOnlyLock(models.Model):
    """Who holds a broker-only task's unique key, where there is no Redis to hold it: see `apps.jobs.locks`."""

    key = models.CharField(max_length=255, primary_key=True)
    owner = models.CharField(max_length=255)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.key}: {self.owner}"


class SchedulePolicy(models.Model):
    """What a periodic task does about ticks that were missed, and about a run that is not over yet."""

    class Missed(models.TextChoices):
        RUN_ONCE = "run_once", "run once for all missed ticks"
        SKIP = "skip", "skip them"

    class Overlap(models.TextChoices):
        SKIP = "skip", "skip the tick while the last run is live"
        ALLOW = "allow", "start it anyway"

    schedule = models.OneToOneField(
        "django_celery_beat.PeriodicTask", models.CASCADE, primary_key=True, related_name="policy"
    )
    missed = models.CharField(max_length=10, choices=Missed, default=Missed.RUN_ONCE)
    overlap = models.CharField(max_length=10, choices=Overlap, default=Overlap.SKIP)
    # A tick this late was missed, not merely slow.
    late_after = models.DurationField(default=timedelta(minutes=1))
    last_job_id = models.UUIDField(null=True, editable=False)

    class Meta:
        verbose_name_plural = "schedule policies"
        permissions = [("run_schedule", "Can run a schedule now")]

    def __str__(self) -> str:
        return f"missed: {self.missed}, overlap: {self.overlap}"
