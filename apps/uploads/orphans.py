"""Objects in the bucket that no row names: of deleted rows, and of transactions that never committed."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import islice

from apps.uploads import bucket

# An object whose transaction is still open is no orphan; no request lasts a day.
GRACE = timedelta(days=1)
BATCH = 1_000


def sweep(prefix: str, now: datetime, owned: Callable[[Iterable[str]], set[str]]) -> int:
    """Delete what is under `prefix` and not in `owned(keys)`. Returns how many; run again, it finds none."""
    keys = bucket.keys_before(prefix, now - GRACE)
    swept = 0
    while batch := set(islice(keys, BATCH)):
        orphans = batch - owned(batch)
        bucket.delete(orphans)
        swept += len(orphans)
    return swept
