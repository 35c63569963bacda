"""What the shop and its supplier tell each other."""

from celery import shared_task
from django.db import transaction

from apps.catalog import changes, services
from apps.jobs.limits import Rate
from tasks.policies import SUPPLIER

# What the supplier's contract allows the shop. However many workers there are, they share it.
SUPPLIER_RATE = Rate("supplier", "3000/minute")

# A run that has this many pages to read is catching up; the rest waits for the next run, five minutes later.
PAGES_A_RUN = 100


@shared_task(unique=("record_id",), unique_until="started", **SUPPLIER)
def sync_to_external_api(record_id: int) -> None:
    """Push a product to the supplier. A refusal is permanent; a `Retry-After` is obeyed and costs no retry.

    Safe to run twice: it puts the product's present state under its sku, so the second time changes nothing.
    """
    SUPPLIER_RATE.acquire()
    services.push_product(record_id)


@shared_task(**SUPPLIER)
def sync_external_data() -> None:
    """Pull the supplier's changes, page by page, and start a job for each change.

    Safe to run twice: a page, its cursor and its jobs commit together; whoever finds the cursor moved saves nothing.
    """
    for _ in range(PAGES_A_RUN):
        SUPPLIER_RATE.acquire()
        page = changes.next_page()
        with transaction.atomic():
            saved = changes.save_page(page)
            apply_supplier_change.delay_many({"change_id": change_id} for change_id in saved)
        if not page.has_more:
            return


@shared_task(atomic=True)
def apply_supplier_change(change_id: int) -> None:
    """Bring one product up to one change of the supplier's.

    Safe to run twice: a change that is not newer than its product does nothing.
    """
    changes.apply_change(change_id)


@shared_task(rate_limit="10/m", **SUPPLIER)
def call_external_api(record_id: int) -> None:
    """Ask the supplier how many it has of a product, at most ten times a minute *in each worker*.

    `rate_limit` is Celery's own, and counts in one process: ten workers make a hundred calls. A limit for the whole
    fleet is `apps.jobs.limits.Rate`, as in `sync_to_external_api`.

    Safe to run twice: it writes down the latest answer.
    """
    services.refresh_stock(record_id)
