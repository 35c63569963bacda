"""A file store with S3's real interface, for tests: moto's server, asked by boto3 over HTTP."""

from collections.abc import Iterator

import pytest
import requests
from moto.server import ThreadedMotoServer
from pytest_django import Settings

from apps.uploads import bucket


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, settings: Settings) -> None:
    """An empty bucket."""
    requests.post(f"{s3_server}/moto-api/reset", timeout=10).raise_for_status()
    settings.AWS_ENDPOINT_URL = s3_server
    bucket.ensure()
