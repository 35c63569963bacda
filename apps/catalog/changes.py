"""The supplier's list of changes, read in pages with a cursor.

A page's changes and the cursor after them are saved in one transaction, together with the jobs that the caller starts
for them. A process killed between two pages goes on from the last saved one; a page fetched twice is saved once.
"""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from apps.catalog import client
from apps.catalog.client import Page
from apps.catalog.models import Product, SupplierChange, SupplierCursor
from apps.jobs.dead_letters import storable
from apps.jobs.sqs import Unusable

FEED = "products"
FIELDS = ("name", "price_minor", "currency", "stock", "active")
# Of a bigint.
MAX_VERSION = 2**63 - 1
# In place of the version, in a change that no row can hold as it came. The supplier's own are not negative.
UNSTORABLE = -1


class BadChange(Unusable):
    """The supplier reports something that no product can be."""


def next_page() -> Page:
    """Fetch the page after the cursor. Call it outside any transaction."""
    cursor, _ = SupplierCursor.objects.get_or_create(feed=FEED)
    return client.fetch_changes(cursor.value)


def save_page(page: Page) -> list[int]:
    """Save a page and move the cursor past it, in the caller's transaction; return the ids of the changes.

    Another worker may have fetched the same page: whoever locks the cursor second finds it moved, and saves nothing.
    """
    cursor = SupplierCursor.objects.select_for_update().get(feed=FEED)
    if cursor.value != page.cursor:
        return []
    saved = SupplierChange.objects.bulk_create(
        [_as_row(one.sku, one.version, dict(one.fields)) for one in page.changes]
    )
    cursor.value = page.next_cursor
    cursor.save(update_fields=["value", "updated_at"])
    return [change.pk for change in saved]


@transaction.atomic
def hear(told: Mapping[str, Any]) -> None:
    """A change that the supplier tells us by a queue, instead of waiting to be asked for it. Raises BadChange.

    A change that is told twice is saved once.
    """
    try:
        sku, version, fields = str(told["sku"]), int(told["version"]), dict(told["fields"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadChange(f"The supplier tells of no change: {error!r}") from error
    new = _as_row(sku, version, fields)
    change = SupplierChange.objects.filter(sku=new.sku, version=new.version).first()
    if change is None:
        new.save()
        change = new
    apply_change(change.pk)


def _as_row(sku: str, version: int, fields: dict[str, Any]) -> SupplierChange:
    """What PostgreSQL cannot hold is saved as near to it as can be, for its own job to refuse: else the whole page of
    it could never be saved, and none after it read.
    """
    change = SupplierChange(sku=storable(sku), version=version, fields=storable(fields))
    if (change.sku, change.fields) != (sku, fields) or not 0 <= version <= MAX_VERSION:
        change.version, change.fields = UNSTORABLE, {**change.fields, "version": version}
    return change


@transaction.atomic
def apply_change(change_id: int) -> None:
    """Bring a product up to a change. Changes arrive in any order: one that is older than the product does nothing.

    The supplier decides on stock and on what it still delivers. Name and price are the shop's own, and are taken from
    the supplier only for a product that is new here. Raises BadChange.
    """
    change = SupplierChange.objects.get(pk=change_id)
    offered = _offered(change)
    fresh = {name: getattr(offered, name) for name in (*FIELDS, "supplier_version")}
    product, is_new = Product.objects.select_for_update().get_or_create(sku=change.sku, defaults=fresh)
    if not is_new and product.supplier_version < change.version:
        product.stock, product.active, product.supplier_version = offered.stock, offered.active, change.version
        product.save(update_fields=["stock", "active", "supplier_version", "updated_at"])
    SupplierChange.objects.filter(pk=change_id, applied_at=None).update(applied_at=timezone.now())


def _offered(change: SupplierChange) -> Product:
    """The product that the change describes, checked as strictly as one that a person typed in."""
    if change.version == UNSTORABLE:
        raise BadChange(f"The supplier's change of {change.sku} cannot be kept as it came: a number or a character.")
    try:
        fields = {name: change.fields[name] for name in FIELDS}
        offered = Product(sku=change.sku, supplier_version=change.version, **fields)
        offered.full_clean(validate_unique=False)
    except KeyError as error:
        raise BadChange(f"The supplier's change {change} does not say its {error}.") from error
    except ValidationError as error:
        raise BadChange(f"The supplier's change {change} is not a product: {' '.join(error.messages)}") from error
    return offered
