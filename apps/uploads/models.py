from django.conf import settings
from django.db import models

from apps.jobs.ids import uuid7
from apps.uploads import bucket


def new_upload_key() -> str:
    return bucket.new_key("uploads")


class Upload(models.Model):
    """A file that a shopkeeper sent, and what became of it."""

    class Kind(models.TextChoices):
        CSV = "csv", "Products (CSV)"
        PICTURE = "picture", "Picture"

    class State(models.TextChoices):
        RECEIVED = "received", "Received"
        DONE = "done", "Done"
        FAILED = "failed", "Refused"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="uploads")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    original_name = models.CharField(max_length=255, help_text="As the visitor's computer called it: shown, never used")
    key = models.CharField(max_length=100, unique=True, default=new_upload_key)
    size = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    lines = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RECEIVED)
    imported = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    row_errors = models.JSONField(default=list, blank=True)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    job_id = models.UUIDField(default=uuid7, editable=False)

    class Meta:
        ordering = ("-created_at",)
        indexes = (models.Index(fields=("owner", "-created_at"), name="upload_owner_newest"),)

    def __str__(self) -> str:
        return f"Upload {self.pk} ({self.get_kind_display()})"

    @property
    def is_settled(self) -> bool:
        return self.state != self.State.RECEIVED

    @property
    def parts_done(self) -> int:
        return self.parts.exclude(finished_at=None).count()


class ImportPart(models.Model):
    """A range of rows of a large CSV, imported by a job of its own, and what came of it.

    The parts keep their own results, so that a part that runs twice counts once and the summary only adds up.
    """

    upload = models.ForeignKey(Upload, on_delete=models.CASCADE, related_name="parts")
    first_row = models.PositiveIntegerField(help_text="Counted from 0, the header not included")
    rows = models.PositiveIntegerField()
    imported = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    row_errors = models.JSONField(default=list)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("first_row",)
        constraints = (models.UniqueConstraint(fields=("upload", "first_row"), name="one_part_a_range"),)

    def __str__(self) -> str:
        return f"Rows {self.first_row + 1} to {self.first_row + self.rows} of upload {self.upload_id}"
