"""What the shop does with an uploaded file."""

import io

from apps.uploads import bucket
from apps.uploads.files import content_of, refusals_noted
from apps.uploads.imports import Outcome, Track, import_list, settle
from apps.uploads.models import Upload
from apps.uploads.pictures import thumbnail_key, thumbnails


def process(upload_id: int, track: Track) -> None:
    """Import a product list, or make a picture's thumbnails. Raises `UploadRejected` after noting it on the upload.

    The second time does nothing. If the process dies on the way, the next attempt starts over: rows are written by
    sku and thumbnails by key, so doing them again changes nothing.
    """
    upload = Upload.objects.get(pk=upload_id)
    if upload.state == Upload.State.DONE:
        return
    with refusals_noted(upload):
        content = content_of(upload)
        is_list = upload.kind == Upload.Kind.CSV
        outcome = import_list(content, track) if is_list else _keep_thumbnails(upload, content)
    settle(upload_id, outcome)


def _keep_thumbnails(upload: Upload, content: bytes) -> Outcome:
    for side, thumbnail in thumbnails(content).items():
        bucket.put(thumbnail_key(upload.key, side), io.BytesIO(thumbnail), "image/webp")
    return Outcome()
