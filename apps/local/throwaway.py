"""Servers for one run: started in under a second, never shared, deleted at the end."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from apps.local.account import elsewhere
from apps.local.places import VAR
from apps.local.postgres import FAST_AND_LOOSE, PostgresServer
from apps.local.valkey import IN_MEMORY, ValkeyServer

FOLDER = VAR / "throwaway"


@contextmanager
def throwaway_servers(
    given: Mapping[str, str], postgres_settings: Mapping[str, str] = FAST_AND_LOOSE
) -> Iterator[dict[str, str]]:
    """Yield the addresses of a PostgreSQL and a Valkey; a server that `given` names already is not started."""
    delete_leftovers()
    folder = FOLDER / str(os.getpid())
    # The account that PostgreSQL runs as walks through these; the server's own folder inside is closed.
    folder.mkdir(parents=True, exist_ok=True)
    postgres = valkey = None
    addresses: dict[str, str] = {}
    try:
        if "DATABASE_URL" not in given:
            postgres = PostgresServer(folder / "postgres", password=secrets.token_hex(8), settings=postgres_settings)
            postgres.start()
            addresses["DATABASE_URL"] = postgres.url()
        if "REDIS_URL" not in given:
            valkey = ValkeyServer(folder / "valkey", password=secrets.token_hex(8), settings=IN_MEMORY)
            valkey.start()
            addresses["REDIS_URL"] = addresses["CELERY_BROKER_URL"] = valkey.url()
        yield addresses
    finally:
        if postgres:
            postgres.remove()
        if valkey:
            valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)


def delete_leftovers() -> None:
    """A run that was killed could not delete its data; its servers died with it."""
    for folder in FOLDER.glob("[0-9]*"):
        if not psutil.pid_exists(int(folder.name)):
            shutil.rmtree(elsewhere(folder / "postgres"), ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
