"""The example for a fleet's autoscaler asks for what /metrics answers."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.utils import timezone

from apps.jobs import queues
from apps.jobs.metrics import levels
from apps.jobs.models import Job
from tests.jobs.bench import record

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


def answer(query: str) -> float:
    """What Prometheus would: each `max(…)` is a number of /metrics, and the rest is arithmetic, as in Python."""
    served = {metric.name: metric for metric in levels.all_levels()}

    def highest(found: re.Match[str]) -> str:
        asked = dict(re.findall(r'(\w+)="(\w+)"', found[2]))
        return str(max(sample.value for sample in served[found[1]].samples if asked.items() <= sample.labels.items()))

    return float(eval(re.sub(r"max\((\w+)\{([^}]*)\}\)", highest, query)))


@pytest.mark.django_db
@pytest.mark.parametrize("query", QUERIES)
def test_a_paused_queue_asks_for_no_worker(query: str) -> None:
    record(run_at=timezone.now() - timedelta(minutes=5))
    assert answer(query) > 0
    queues.pause("default")
    assert answer(query) == 0


@pytest.mark.django_db
def test_what_a_paused_queue_runs_keeps_its_workers() -> None:
    Job.objects.filter(pk=record()).update(state=Job.State.RUNNING)
    queues.pause("default")
    assert answer(QUERIES[0]) == 1


def test_a_replica_that_is_taken_away_has_time_to_hand_back_what_it_runs() -> None:
    text = (ROOT / "monitoring" / "keda.yaml").read_text()
    [seconds] = re.findall(r"terminationGracePeriodSeconds at (\d+)", text)
    assert settings.JOBS_SHUTDOWN_GRACE.total_seconds() < int(seconds)
