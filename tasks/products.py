from celery import chord, shared_task
from django.db import transaction

from apps.uploads import imports
from apps.uploads.files import refuse
from apps.uploads.kinds import UploadRejected
from tasks.policies import FILE_STORE


@shared_task(throws=(UploadRejected,), **FILE_STORE)
def batch_import_products(*, upload_id: int) -> None:
    """Import a long product list in parts, side by side, and sum up once at the end.

    Safe to run twice: parts are found by their rows, and a second summary changes nothing.
    """
    parts = imports.plan_parts(upload_id)
    failed = fail_import.si(upload_id=upload_id)
    header = [
        batch_import_part.si(upload_id=upload_id, first_row=part.first_row, rows=part.rows).on_error(failed)
        for part in parts
    ]
    summary = summarise_import.si(upload_id=upload_id)
    with transaction.atomic():
        (chord(header, summary) if header else summary).apply_async()


@shared_task(throws=(UploadRejected,), **FILE_STORE)
def batch_import_part(*, upload_id: int, first_row: int, rows: int) -> None:
    """Import one range of a list's rows; the rows themselves never travel in a message.

    Safe to run twice: products are written by sku, and a finished part is left alone.
    """
    imports.import_part(upload_id, first_row, rows)


@shared_task
def summarise_import(*, upload_id: int) -> None:
    """Add up the parts of an import.

    Safe to run twice: the totals are computed from the parts, and an upload that is done is left alone.
    """
    imports.summarise_parts(upload_id)


@shared_task
def fail_import(*, upload_id: int) -> None:
    """Tell the owner that a part of the list was not imported.

    Safe to run twice: only an upload that is still open is closed.
    """
    refuse(upload_id, "A part of this list could not be imported. Its dead letter says why, and can be replayed.")
