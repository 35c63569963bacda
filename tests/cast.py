"""The people in the tests, and the files they send."""

import io
from pathlib import Path

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db.models import Model

from apps.uploads.files import store
from apps.uploads.models import Upload

SAMPLES = Path(__file__).parent.parent / "samples"


def shopkeeper(name: str) -> User:
    return User.objects.create_user(name, f"{name}@nightshift.example", "a-password-for-tests", is_staff=True)


def permit(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


def history(of: Model) -> list[tuple[str, str]]:
    """Who did what to it, the oldest first: what its page in the admin shows."""
    entries = LogEntry.objects.filter(content_type__model=of._meta.model_name, object_id=str(of.pk))
    return list(entries.order_by("pk").values_list("user__username", "change_message"))


def uploaded(owner: User, sample: str, content: bytes | None = None) -> Upload:
    """A sample in the bucket, received without the form: only the task stands between it and the shop."""
    kind = Upload.Kind.CSV if sample.endswith(".csv") else Upload.Kind.PICTURE
    upload = store(owner, kind, sample, io.BytesIO(content or (SAMPLES / sample).read_bytes()))
    upload.save()
    return upload
