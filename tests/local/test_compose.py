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


def test_every_process_of_the_procfile_is_a_service() -> None:
    always = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert set(PROCFILE) == always - {"postgres", "valkey", "migrate"}


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
