"""The alerts and the dashboard of monitoring/: they fire, they stay quiet, and they ask for what there is."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from apps.home.catalogue import anchor
from apps.jobs.health.heartbeats import Heart
from apps.jobs.metrics import counts
from apps.jobs.models import Heartbeat, Worker
from apps.local.places import ROOT

MONITORING = ROOT / "monitoring"
PROMTOOL = shutil.which("promtool")

ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
CASES = [
    case
    for test in yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    for case in test["alert_rule_test"]
]
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "nightshift.json").read_text())
NAME = re.compile(r"\b(?:celery|nightshift)_[a-z_]+\b")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is in Debian's package prometheus")
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=["rules", "cases", "scrapes"],
)
def test_prometheus_own_tool_is_content(command: list[str]) -> None:
    found = subprocess.run([str(PROMTOOL), *command], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_that_fires_and_one_that_stays_quiet(alert: str) -> None:
    cases = [bool(case["exp_alerts"]) for case in CASES if case["alertname"] == alert]
    assert set(cases) == {True, False}


def test_every_case_is_about_an_alert_that_there_is() -> None:
    assert {case["alertname"] for case in CASES} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^##+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert section in [anchor(heading) for heading in headings]


@pytest.fixture
def exposed(db: None, admin_client: Any) -> set[str]:
    """The names of all metrics that /metrics can have."""
    counts.count("started", "tasks.lab_nothing", "default")
    counts.write()
    relay = Heart(Heartbeat.Process.RELAY)
    relay.seen = {"memory_used": 1, "memory_allowed": 2}
    relay.beat()
    Worker.objects.create(name="worker@here", pid=1)
    return set(re.findall(r"^([a-z_]+)[{ ]", admin_client.get("/metrics").content.decode(), re.MULTILINE))


def test_the_alerts_ask_for_metrics_that_there_are(exposed: set[str]) -> None:
    asked = {name for rule in ALERTS.values() for name in NAME.findall(rule["expr"])}
    assert asked - exposed == set()


def test_the_dashboard_asks_for_metrics_that_there_are(exposed: set[str]) -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert {name for query in queries for name in NAME.findall(query)} - exposed == set()


def test_the_dashboards_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_and_its_provisioning_name_the_same_source() -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert uids == {source["uid"] for source in provisioned["datasources"]}
