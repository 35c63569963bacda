"""Locks of broker-only tasks, where there is no Redis.

Guarantee. Of those that ask at once, one row is written and one has it; a lock that has expired is anybody's.

Not guaranteed. In a transaction the lock is seen by others at its commit, and they wait for that; a rollback gives it
back, though the message is on its way.
"""

from django.db import connection
from django.utils import timezone

from apps.jobs.models import BrokerOnlyLock

TAKE = """
    INSERT INTO jobs_brokeronlylock AS lock (key, owner, expires_at)
    VALUES (%s, %s, clock_timestamp() + %s * interval '1 second')
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
    WHERE lock.expires_at <= clock_timestamp()
    RETURNING owner
"""


def take(key: str, owner: str, seconds: float) -> str:
    """Take the lock for this owner, or find out who has it. Returns the owner."""
    with connection.cursor() as cursor:
        while True:
            cursor.execute(TAKE, [key, owner, seconds])
            if cursor.fetchone():
                return owner
            holder = BrokerOnlyLock.objects.filter(key=key).values_list("owner", flat=True).first()
            if holder is not None:
                return holder


def release(key: str, owner: str) -> None:
    """If it is still this owner's. Those that were never released are cleared away by the way."""
    BrokerOnlyLock.objects.filter(key=key, owner=owner).delete()
    BrokerOnlyLock.objects.filter(expires_at__lt=timezone.now()).delete()
