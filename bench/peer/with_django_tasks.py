"""Django's own tasks, with the database backend."""

import os
from urllib.parse import urlsplit

import django
from django.conf import settings

address = urlsplit(os.environ["BENCH_PEER_DATABASE"])
settings.configure(
    INSTALLED_APPS=["django_tasks", "django_tasks_db"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": address.path[1:],
            "USER": address.username,
            "PASSWORD": address.password,
            "HOST": address.hostname,
            "PORT": address.port,
        }
    },
    TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402 - Django has its settings only now
from django.db import connection  # noqa: E402
from django_tasks import task  # noqa: E402

from bench import written  # noqa: E402
from bench.stamps import stamp_now  # noqa: E402


@task()
def nothing() -> None:
    pass


@task()
def write() -> None:
    with connection.cursor() as cursor:
        cursor.execute(written.WRITE)


@task()
def stamp() -> None:
    stamp_now()


TASKS = {"nothing": nothing, "write": write, "stamp": stamp}


def install() -> None:
    call_command("migrate", verbosity=0)


def work() -> None:
    call_command("db_worker", interval=0.01, verbosity=0)


def one_by_one(name: str, jobs: int) -> None:
    for _ in range(jobs):
        TASKS[name].enqueue()


together = one_by_one
