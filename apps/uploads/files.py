"""An upload's bytes: how they are stored, and the checks that every file passes again before it is used.

A file may have come by another way than the form, so the task trusts nothing that the form has seen.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from django.contrib.auth.models import User

from apps.uploads import bucket
from apps.uploads.kinds import HEAD, MAX_BYTES, UploadRejected, check_content, check_size
from apps.uploads.models import Upload

CONTENT_TYPES = {Upload.Kind.CSV: "text/csv", Upload.Kind.PICTURE: "application/octet-stream"}
READ_SIZE = 64 * 1024


def store(owner: User, kind: Upload.Kind, name: str, content: IO[bytes]) -> Upload:
    """Write the file to the bucket and return its row, unsaved, for the caller to save with its job.

    If that transaction never commits, the object is an orphan, and the nightly clean-up deletes it.
    """
    upload = Upload(owner=owner, kind=kind, original_name=name[-255:], size=0)
    digest = hashlib.sha256()
    while block := content.read(READ_SIZE):
        digest.update(block)
        upload.size += len(block)
        upload.lines += block.count(b"\n")
    upload.sha256 = digest.hexdigest()
    content.seek(0)
    bucket.put(upload.key, content, CONTENT_TYPES[kind])
    return upload


def content_of(upload: Upload) -> bytes:
    """Return the stored bytes after checking size, kind and checksum. Raises `UploadRejected`."""
    try:
        content = bucket.read(upload.key, at_most=MAX_BYTES)
    except (bucket.FileMissing, bucket.FileTooLarge) as error:
        raise UploadRejected(str(error)) from error
    check_size(len(content))
    check_content(upload.kind, content[:HEAD])
    if hashlib.sha256(content).hexdigest() != upload.sha256:
        raise UploadRejected("This file changed after it was received. Please upload it again.")
    return content


@contextmanager
def refusals_noted(upload: Upload) -> Iterator[None]:
    """Show the owner why a file was refused, and let the refusal go on to the dead letters."""
    try:
        yield
    except UploadRejected as refusal:
        refuse(upload.pk, str(refusal))
        raise


def refuse(upload_id: int, reason: str) -> None:
    """Close an upload as failed, unless it is settled already. Raises `DoesNotExist` for one that is gone."""
    upload = Upload.objects.get(pk=upload_id)
    Upload.objects.filter(pk=upload.pk, state=Upload.State.RECEIVED).update(state=Upload.State.FAILED, reason=reason)
