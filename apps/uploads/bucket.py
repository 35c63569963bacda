"""The one place that talks to S3. Keys are made here, at random: nothing a visitor typed is ever part of one.

Every call has time-outs and two quick retries of boto3's own; a longer outage is `BucketUnavailable`, and how often to
come back is the task's policy.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from typing import IO, Any

from botocore import exceptions as boto
from django.conf import settings

# What S3 says when it is busy rather than when we are wrong, beside any 5xx.
BUSY = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "TooManyRequests"}
MISSING = {"NoSuchKey", "404", "NoSuchBucket"}
# S3 deletes at most this many keys a request.
DELETE_BATCH = 1_000


class BucketUnavailable(Exception):
    """The file store did not answer, or said that it is busy."""


class FileMissing(Exception):
    """There is no such file in the bucket (any more)."""


class FileTooLarge(Exception):
    """The stored file is larger than the caller is prepared to read."""


def new_key(folder: str, suffix: str = "") -> str:
    """Return a key that nobody can guess: whoever holds it still has to pass the owner check of a view."""
    return f"{folder}/{secrets.token_urlsafe(24)}{suffix}"


def put(key: str, content: IO[bytes], content_type: str) -> None:
    """Write one object. The second time it overwrites the first with the same bytes."""
    with _translated(key):
        _client().put_object(Bucket=settings.AWS_S3_BUCKET, Key=key, Body=content, ContentType=content_type)


def read(key: str, at_most: int) -> bytes:
    """Return an object's bytes, refusing before the read when it is larger than `at_most`."""
    with _translated(key):
        answer = _client().get_object(Bucket=settings.AWS_S3_BUCKET, Key=key)
        if answer["ContentLength"] > at_most:
            raise FileTooLarge(f"This file has {answer['ContentLength']:,} bytes; {at_most:,} are allowed.")
        content: bytes = answer["Body"].read()
    return content


def keys_before(prefix: str, moment: datetime) -> Iterator[str]:
    """Yield the keys under `prefix` that were last written before `moment`."""
    with _translated(prefix):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=settings.AWS_S3_BUCKET, Prefix=prefix)
        for page in pages:
            yield from (entry["Key"] for entry in page.get("Contents", ()) if entry["LastModified"] < moment)


def delete(keys: Iterable[str]) -> None:
    """Delete objects. A key that is gone already is no error."""
    doomed = [{"Key": key} for key in keys]
    for start in range(0, len(doomed), DELETE_BATCH):
        batch = {"Objects": doomed[start : start + DELETE_BATCH], "Quiet": True}
        with _translated("delete"):
            _client().delete_objects(Bucket=settings.AWS_S3_BUCKET, Delete=batch)


def ensure() -> None:
    """Create the bucket if it is not there: for stand-ins of S3 only, a real bucket is infrastructure's to make."""
    client = _client()
    with _translated(settings.AWS_S3_BUCKET), suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(
            Bucket=settings.AWS_S3_BUCKET, CreateBucketConfiguration={"LocationConstraint": settings.AWS_REGION}
        )


def _client() -> Any:
    return _client_for(
        settings.AWS_ENDPOINT_URL, settings.AWS_REGION, settings.AWS_ACCESS_KEY_ID, settings.AWS_SECRET_ACCESS_KEY
    )


@lru_cache(maxsize=4)
def _client_for(endpoint: str | None, region: str, key_id: str, secret: str) -> Any:
    """Make a client (0.1 s of parsing service models), once a process and address. boto3's clients are thread-safe.

    Empty credentials leave boto3 to its own chain: profile, container or instance role. Imported here because that
    takes half a second, which every process would pay at its start.
    """
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        # 10 MB in 20 s is a slow line; a connection that takes more than 3 s will not come.
        config=Config(connect_timeout=3, read_timeout=20, retries={"max_attempts": 2, "mode": "standard"}),
    )


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError) as error:
        raise BucketUnavailable(f"The file store cannot be reached: {error}") from error
    except boto.ClientError as error:
        meaning = _meaning(error, key)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: boto.ClientError, key: str) -> Exception | None:
    code = error.response["Error"]["Code"]
    if code in BUSY or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
        return BucketUnavailable(f"The file store is busy ({code}).")
    if code in MISSING:
        return FileMissing(f"The file {key} is not in the store (any more).")
    return None
