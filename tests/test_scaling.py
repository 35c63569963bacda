"""The example for a fleet's autoscaler asks for what /metrics answers."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from apps.jobs.metrics import levels

ROOT = Path(__file__).parent.parent
SCALED: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "keda.yaml").read_text())["spec"]
QUERIES = [trigger["metadata"]["query"] for trigger in SCALED["triggers"]]
SELECTED = re.compile(r"(\w+)\{([^}]*)\}")


@pytest.mark.django_db
@pytest.mark.parametrize("query", QUERIES)
def test_the_autoscaler_asks_for_metrics_that_there_are(query: str) -> None:
    served = {metric.name: metric for metric in levels.all_levels()}
    assert SELECTED.findall(query)
    for name, labels in SELECTED.findall(query):
        asked = dict(re.findall(r'(\w+)="(\w+)"', labels))
        assert any(asked.items() <= sample.labels.items() for sample in served[name].samples), f"{name}{asked}"


def test_a_replica_that_is_taken_away_has_time_to_hand_back_what_it_runs() -> None:
    text = (ROOT / "monitoring" / "keda.yaml").read_text()
    [seconds] = re.findall(r"terminationGracePeriodSeconds at (\d+)", text)
    assert settings.JOBS_SHUTDOWN_GRACE.total_seconds() < int(seconds)
