from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from apps.local.bucket_copy import BucketCopy
from apps.local.ports import any_port


@pytest.fixture
def endpoint() -> Iterator[str]:
    port = any_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def test_the_buckets_files_survive_a_restart_of_the_pretended_s3(endpoint: str, tmp_path: Path) -> None:
    before = BucketCopy(endpoint, "before", tmp_path)
    before.restore()
    before.client.put_object(Bucket="before", Key="reports/june.csv", Body=b"sales", ContentType="text/csv")
    before.client.put_object(Bucket="before", Key="reports/july.csv", Body=b"more")
    before.save()
    before.client.delete_object(Bucket="before", Key="reports/july.csv")
    before.save()

    after = BucketCopy(endpoint, "after", tmp_path)
    after.restore()
    listing = after.client.list_objects_v2(Bucket="after")["Contents"]
    answer = after.client.get_object(Bucket="after", Key="reports/june.csv")
    assert [entry["Key"] for entry in listing] == ["reports/june.csv"]
    assert (answer["Body"].read(), answer["ContentType"]) == (b"sales", "text/csv")
