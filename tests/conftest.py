"""What every test stands on: real servers of its own, settings that can reach nobody, and the network off.

pytest reads this file before Django's settings, so the environment is made here. `DATABASE_URL` and `REDIS_URL`, where
they are set in the environment itself, name servers to use instead; the tests flush that Redis database.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack

import django
import pytest
import redis
from django.conf import settings

from apps.local import laptop
from apps.local.loopback import allow_loopback_only
from apps.local.throwaway import throwaway_servers
from tests.nobody import NOBODY

# A test that needs a third party starts the sandbox and sets its address.
NOWHERE = f"http://{NOBODY}"

ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "DEBUG": "1",
    "SANDBOX": "1",
    "SECRET_KEY": "a-key-for-tests-only",
    "EMAIL_URL": "memorymail://",
    # The pages are served by a thread of the tests, whose connections are not all of the server.
    "DATABASE_POOL": "0",
    "STRIPE_API_KEY": "sk_test_nightshift",
    "STRIPE_API_BASE": NOWHERE,
    "STRIPE_WEBHOOK_SECRET": "whsec_for_tests_only",
    "SUPPLIER_API_BASE": NOWHERE,
    "SUPPLIER_API_KEY": "supplier-test-key",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_ENDPOINT_URL": NOWHERE,
    "SANDBOX_URL": "",
    "FLOWER_URL": "",
}

# What a child process has to be told to use the same servers.
ADDRESSES = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")

# What starts processes and waits for them.
SLOW = ("tests/acceptance/", "tests/bench/", "tests/brokers/", "tests/pages/test_every_pattern.py")

_servers = ExitStack()
# Of a person, before the tests put the address of their own there.
_named_redis = os.environ.get("REDIS_URL", "")


def pytest_configure(config: pytest.Config) -> None:
    if is_only_distributing(config):
        return
    if settings.configured and not {"DATABASE_URL", "REDIS_URL"} <= os.environ.keys():
        raise pytest.UsageError("The tests make their own settings: unset DJANGO_SETTINGS_MODULE and leave out --ds.")
    # Again, for those who type `pytest` itself.
    laptop.prepare(["test"])
    os.environ.update(ENVIRONMENT)
    os.environ.update(_servers.enter_context(throwaway_servers(os.environ)))
    os.environ.setdefault("CELERY_BROKER_URL", os.environ["REDIS_URL"])
    allow_loopback_only()
    django.setup()
    # A real one is slow on purpose, and hundreds of tests sign somebody in.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # WhiteNoise warns about a folder that only `collectstatic` makes.
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)


def pytest_report_header() -> list[str]:
    return [f"The tests empty {re.sub('//.*@', '//', _named_redis)}."] if _named_redis else []


def is_only_distributing(config: pytest.Config) -> bool:
    """Whether this process hands the tests out to others, and runs none itself."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, or one process would still be at them when the others have nothing left."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


def pytest_unconfigure() -> None:
    _servers.close()


@pytest.fixture
def servers() -> dict[str, str]:
    """The addresses of the servers that this run uses, as environment variables for a child process."""
    return {name: os.environ[name] for name in ADDRESSES}


@pytest.fixture
def valkey() -> Iterator[redis.Redis]:
    """An empty Redis database."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.flushdb()
        yield client
