"""What uploads leave behind, and when it goes. Each function returns how many it removed; run again, it finds none."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from apps.uploads import orphans
from apps.uploads.models import Upload

# A month to ask why a file was refused.
KEEP_FAILED = timedelta(days=30)


def forget_failed_uploads(now: datetime) -> int:
    """Delete old uploads that came to nothing: refused, or never finished. Their files are orphans from then on."""
    old = Upload.objects.filter(created_at__lt=now - KEEP_FAILED).exclude(state=Upload.State.DONE)
    return old.delete()[1].get("uploads.Upload", 0)


def sweep_upload_files(now: datetime) -> int:
    return orphans.sweep("uploads/", now, _owned)


def _owned(keys: Iterable[str]) -> set[str]:
    """A thumbnail's key is its upload's key with a suffix behind a dot; an upload's own key has no dot."""
    upload_keys = {key: key.partition(".")[0] for key in keys}
    known = set(Upload.objects.filter(key__in=upload_keys.values()).values_list("key", flat=True))
    return {key for key, upload_key in upload_keys.items() if upload_key in known}
