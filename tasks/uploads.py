from typing import Any

from celery import shared_task

from apps.uploads import services
from apps.uploads.kinds import UploadRejected
from tasks.policies import FILE_STORE


@shared_task(bind=True, throws=(UploadRejected,), **FILE_STORE)
def process_upload(self: Any, *, upload_id: int) -> None:
    """Import a product list, or make a picture's thumbnails.

    Safe to run twice: products are written by sku, thumbnails by key; an upload that is done is left alone.
    """
    services.process(upload_id, track=self.track)
