import re
from typing import Any

import pytest
import yaml

from apps.local.places import ROOT
from apps.local.procfile import read

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PROCFILE = {line.name: line.command for line in read(ROOT / "Procfile")}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


def test_postgres_counts_as_healthy_only_where_the_others_can_reach_it() -> None:
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]


def test_valkey_is_started_by_its_image_which_gives_up_root() -> None:
    assert SERVICES["valkey"]["command"][-1].startswith("exec docker-entrypoint.sh valkey-server ")


def test_every_process_of_the_procfile_is_a_service() -> None:
    always = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert set(PROCFILE) == always - {"postgres", "valkey", "migrate"}


def test_another_broker_is_a_profile_and_everybody_is_told_its_address() -> None:
    assert SERVICES["rabbitmq"]["profiles"] == ["rabbitmq"]
    assert SERVICES["sqs-consumer"]["profiles"] == ["sqs"]
    [address] = {service["environment"]["CELERY_BROKER_URL"] for service in SERVICES.values() if is_ours(service)}
    assert address.startswith("${CELERY_BROKER_URL:-redis://")


def test_whoever_needs_a_broker_waits_for_it_only_where_it_is_started() -> None:
    for name, service in SERVICES.items():
        if is_ours(service) and name != "migrate":
            assert service["depends_on"]["rabbitmq"]["required"] is False, name


def test_one_of_each_kind_may_die_but_for_what_must_not_run_twice_at_once() -> None:
    twice = {name for name, service in SERVICES.items() if service.get("deploy", {}).get("replicas", 1) > 1}
    assert twice == {"relay", "worker", "worker-high", "worker-low", "sqs-consumer"}


def test_the_processes_fit_into_the_databases_connections() -> None:
    """By the arithmetic of docs/scaling.md: a worker's children and its main process, a relay and its ear."""
    [allowed] = (int(word.partition("=")[2]) for word in SERVICES["postgres"]["command"] if "max_connections" in word)
    web, beat, flower = 40, 2, 1
    relays, workers = 2 * 2, 2 * (10 + 1) + 2 * (4 + 1) + 2 * (2 + 1) + (100 + 1)
    assert web + beat + flower + relays + workers < allowed * 0.8


def is_ours(service: dict[str, Any]) -> bool:
    return bool(service.get("image") == "nightshift")


@pytest.mark.parametrize("name", ["relay", "beat", "worker", "worker-high", "worker-low", "worker-io"])
def test_a_service_runs_what_the_procfile_runs(name: str) -> None:
    # The Procfile's processes share a machine, and so have names of their own.
    assert " ".join(SERVICES[name]["command"]) == PROCFILE[name].partition(" -n ")[0]


def test_every_file_that_a_service_mounts_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_file_holds_no_secret() -> None:
    secrets = ("SECRET", "PASSWORD", "AUTH", "KEY")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in secrets) and not name.endswith("__FILE"):
                assert re.match(r"\$\{\w+:\?", value), name
