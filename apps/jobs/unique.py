"""Uniqueness: at most one live job for a key.

Problem. The usual `SET NX EX 3600` outlives its job, or ends before it, and is not part of the transaction.

Guarantee. For a durable task the key is a column under a partial unique index: free of races, gone with a rollback,
released by the very UPDATE that ends the job. `.delay()` of a duplicate returns the job that holds the key.
A broker-only task has a lock in Redis, with its own id as the owner's token, released by compare-and-delete; without
Redis, the lock is a row. A secret argument counts by its value, which nobody can find out from the key without
SECRET_KEY.

Not guaranteed. A broker-only task's lock lasts for the task's time limit, from when the job was sent. For the rest of
that it outlives a killed worker, and a job that ends by Ignore; and one that waits in the broker for longer has lost
it, so that a second may be sent. When SECRET_KEY changes, so do the keys of secret arguments: a job from before does
not keep out its like from after.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import redis
from django.conf import settings
from django.utils.crypto import salted_hmac
from kombu.utils.json import dumps

from apps.jobs import locks

SALT = "nightshift.unique"

# Deleting a lock that has expired and belongs to another job by now would let a third one in.
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"


def key_of(task: str, names: Sequence[str], arguments: Mapping[str, Any], *, is_secret: bool = False) -> str:
    """The same for the same values of the named arguments, whatever their order or their way in.

    `is_secret`, if one of them is: a plain hash of a short secret can be found by trying.
    """
    values = dumps([arguments.get(name) for name in names], sort_keys=True)
    digest = salted_hmac(SALT, values, algorithm="sha256") if is_secret else hashlib.sha256(values.encode())
    return f"{task}:{digest.hexdigest()[:32]}"


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)


def lock(key: str, owner: str, seconds: float) -> str:
    """Take the lock for this owner, or find out who has it. Returns the owner's token."""
    if not settings.REDIS_URL:
        return locks.take(key, owner, seconds)
    name = f"unique:{key}"
    while not _redis().set(name, owner, nx=True, px=int(seconds * 1000)):
        holder = _redis().get(name)
        if holder is not None:
            return str(holder)
    return owner


def unlock(key: str, owner: str) -> None:
    """Release it, if it is still this owner's."""
    if settings.REDIS_URL:
        _redis().eval(RELEASE, 1, f"unique:{key}", owner)
    else:
        locks.release(key, owner)
