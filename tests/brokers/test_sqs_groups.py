"""Groups of a FIFO queue: whatever a header says, Amazon takes the message."""

from typing import Any

import pytest

from apps.jobs.brokers.sqs import GROUP, group_of


@pytest.mark.parametrize("name", ["order-7", "!", "x" * 128])
def test_a_group_is_the_one_that_the_header_names(name: str) -> None:
    assert group_of({"id": "a job", "MessageGroupId": name}) == name


@pytest.mark.parametrize("name", [" ", "order 7", "Größe", "x" * 129, "\n", 7, ["order", 7]])
def test_a_name_that_amazon_would_refuse_is_a_group_all_the_same(name: Any) -> None:
    group = group_of({"MessageGroupId": name})
    assert GROUP.fullmatch(group)
    assert group == group_of({"MessageGroupId": name})
    assert group != group_of({"MessageGroupId": f"{name} and another"})


@pytest.mark.parametrize("headers", [{"id": "a-job"}, {"id": "a-job", "MessageGroupId": ""}])
def test_a_job_without_a_group_is_one_of_its_own(headers: dict[str, Any]) -> None:
    assert group_of(headers) == "a-job"
