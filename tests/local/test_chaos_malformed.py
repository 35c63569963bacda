import json

import pytest

from apps.local.chaos.malformed import END, KINDS, malformed


@pytest.mark.parametrize("kind", KINDS)
def test_every_malformed_message_carries_its_marker_to_its_letter(kind: str) -> None:
    item, message = malformed(kind)
    assert message.becomes == END or message.marker in item


def test_two_messages_of_a_kind_are_told_apart() -> None:
    (_, first), (_, second) = malformed("no id"), malformed("no id")
    assert first.marker != second.marker


def test_what_is_merely_odd_is_known_by_its_job() -> None:
    item, message = malformed("options are null")
    assert json.loads(item)["headers"]["id"] == message.job_id
