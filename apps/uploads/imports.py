"""From a product list to products: all rows in one job, or in parts that several workers import side by side.

Safe to run twice because products are written by sku: the second time updates what the first inserted.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice

from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from apps.catalog.models import Product
from apps.uploads.files import content_of, refusals_noted
from apps.uploads.models import ImportPart, Upload
from apps.uploads.product_csv import ProductRow, RowError, count_rows, read_rows

Row = ProductRow | RowError
Track = Callable[..., Iterable[Row]]

# One INSERT of 500 rows takes 20 ms: few round trips, and locks that nobody notices.
BATCH = 500
# A list longer than this is worth several workers; a shorter one is done in a second.
LONG = 1_000
ROWS_A_PART = 1_000
# Whoever has more wrong rows than this has one mistake many times.
SHOWN_ERRORS = 100


class PartsMissing(Exception):
    """The parts of an import have not all been imported, so there is nothing to add up yet."""


@dataclass
class Outcome:
    imported: int = 0
    rejected: int = 0
    row_errors: list[dict[str, object]] = field(default_factory=list)

    def note(self, errors: list[RowError]) -> None:
        self.rejected += len(errors)
        self.row_errors += [asdict(error) for error in errors[: SHOWN_ERRORS - len(self.row_errors)]]


def import_list(content: bytes, track: Track) -> Outcome:
    """Import all rows, reporting each one to `track` for its progress. Stops between batches when cancelled."""
    return _write(track(read_rows(content), total=count_rows(content)))


def plan_parts(upload_id: int) -> list[ImportPart]:
    """Divide a list into parts of rows and return those not imported yet. A list without rows is one part without rows.

    The second time the parts are found, not made again.
    """
    upload = Upload.objects.get(pk=upload_id)
    with refusals_noted(upload):
        rows = count_rows(content_of(upload))
    parts = [
        ImportPart(upload=upload, first_row=first, rows=min(ROWS_A_PART, rows - first))
        for first in range(0, max(rows, 1), ROWS_A_PART)
    ]
    ImportPart.objects.bulk_create(parts, ignore_conflicts=True)
    return list(upload.parts.filter(finished_at=None))


def import_part(upload_id: int, first_row: int, rows: int) -> None:
    """Import one range of rows and keep its totals. The second time does nothing.

    Reads the list from its start: 10 MB are parsed in a second, and only so are duplicates across parts found.
    """
    part = ImportPart.objects.select_related("upload").get(upload=upload_id, first_row=first_row)
    if part.finished_at is None:
        outcome = _write(islice(read_rows(content_of(part.upload)), first_row, first_row + rows))
        ImportPart.objects.filter(pk=part.pk).update(**asdict(outcome), finished_at=timezone.now())


def summarise_parts(upload_id: int) -> Outcome:
    """Add up the parts and settle the upload, once. Raises `PartsMissing` while a part is open."""
    parts = ImportPart.objects.filter(upload=upload_id)
    if not parts or parts.filter(finished_at=None).exists():
        raise PartsMissing(f"Some parts of the list of upload {upload_id} have not been imported.")
    totals = parts.aggregate(imported=Sum("imported"), rejected=Sum("rejected"))
    errors = [error for part in parts for error in part.row_errors]
    outcome = Outcome(**totals, row_errors=errors[:SHOWN_ERRORS])
    settle(upload_id, outcome)
    return outcome


def settle(upload_id: int, outcome: Outcome) -> None:
    """Write an import's totals, unless it is settled already."""
    Upload.objects.filter(pk=upload_id).exclude(state=Upload.State.DONE).update(
        state=Upload.State.DONE, reason="", **asdict(outcome)
    )


def _write(rows: Iterable[Row]) -> Outcome:
    outcome = Outcome()
    for batch in _batches(rows):
        products = [row for row in batch if isinstance(row, ProductRow)]
        _upsert(products)
        outcome.imported += len(products)
        outcome.note([row for row in batch if isinstance(row, RowError)])
    return outcome


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _upsert(rows: list[ProductRow]) -> None:
    """Insert or update by sku, in the order of skus: two imports that lock rows in one order cannot deadlock."""
    products = [
        Product(sku=row.sku, name=row.name, price_minor=row.price_minor, currency=row.currency, stock=row.stock)
        for row in sorted(rows, key=lambda row: row.sku)
    ]
    with transaction.atomic():
        Product.objects.bulk_create(
            products,
            update_conflicts=True,
            unique_fields=["sku"],
            update_fields=["name", "price_minor", "currency", "stock", "updated_at"],
        )
