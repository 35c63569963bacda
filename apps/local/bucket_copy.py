"""A copy of one bucket on the disk, because the pretended S3 keeps everything in memory.

The demo's database survives a restart, and its uploads and reports point into the bucket. A file that was written less
than a round (two seconds) before a `kill -9` is lost; S3 itself promises more.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from django.conf import settings

from apps.local.places import private_folder

TYPES = "content-types.json"


class BucketCopy:
    def __init__(self, endpoint: str, bucket: str, folder: Path) -> None:
        self.bucket = bucket
        self.folder = private_folder(folder)
        self.saved: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.AWS_REGION,
            aws_access_key_id="copy",
            aws_secret_access_key="copy",  # noqa: S106 - the pretended S3 takes any
            config=Config(retries={"max_attempts": 1}),
        )

    def restore(self) -> None:
        """Make the bucket and put back what the last run left in it."""
        self.client.create_bucket(
            Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": settings.AWS_REGION}
        )
        types = self.folder / TYPES
        self.types = json.loads(types.read_text()) if types.is_file() else {}
        for key, content_type in self.types.items():
            path = self._path(key)
            if path.is_file():
                answer = self.client.put_object(
                    Bucket=self.bucket, Key=key, Body=path.read_bytes(), ContentType=content_type
                )
                self.saved[key] = answer["ETag"]

    def save(self) -> None:
        """Write what is new since the last call, and remove what is gone."""
        now = self._listing()
        fresh = [key for key, etag in now.items() if self.saved.get(key) != etag]
        gone = self.saved.keys() - now.keys()
        for key in fresh:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            self._path(key).write_bytes(answer["Body"].read())
            self.types[key] = answer["ContentType"]
        for key in gone:
            self._path(key).unlink(missing_ok=True)
            self.types.pop(key, None)
        if fresh or gone:
            (self.folder / TYPES).write_text(json.dumps(self.types))
        self.saved = now

    def _listing(self) -> dict[str, str]:
        pages: Any = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", ())}

    def _path(self, key: str) -> Path:
        return self.folder / quote(key, safe="")
