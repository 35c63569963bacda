"""Streams: what is sent, what is not held, and what ends them."""

import asyncio
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponseBase, StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from apps.jobs import streams
from apps.jobs.streams import Seen

request = AsyncRequestFactory().get("/jobs/events/")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "EVERY", 0)


def answer(*looks: Seen) -> HttpResponseBase:
    """Of a page at which one thing after the other is seen."""
    seen: Iterator[Seen] = iter(looks)
    return streams.answer(request, lambda: next(seen))


def read(response: HttpResponseBase) -> list[str]:
    assert isinstance(response, StreamingHttpResponse)

    async def parts() -> list[str]:
        return [part.decode() async for part in response]

    return asyncio.run(parts())


def test_a_piece_is_sent_when_it_has_changed_and_not_otherwise(db: None) -> None:
    parts = read(
        answer(Seen({"job": "1", "life": "a"}), Seen({"job": "2", "life": "a"}), Seen({"job": "2", "life": "b"}, True))
    )
    assert parts[1:] == [
        "event: job\ndata: 1\n\nevent: life\ndata: a\n\n",
        "event: job\ndata: 2\n\n",
        "event: life\ndata: b\n\n",
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n", "\n\n"])
def test_what_a_job_carries_cannot_begin_an_event_of_its_own(line_end: str) -> None:
    event = streams.as_event("life", f"oops{line_end}event: job{line_end}data: done")
    assert event.startswith("event: life\ndata: oops\n")
    assert "\nevent:" not in event.replace("\r", "\n")
    assert event.count("\n\n") == 1


def test_a_stream_ends_after_its_life_and_asks_to_be_opened_again(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LIFE", 0)
    assert read(answer())[-1] == "event: again\ndata: \n\n"


def test_a_silent_stream_says_that_it_is_there(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE", 0)
    assert read(answer(Seen({"job": "1"}), Seen({"job": "1"}), Seen({}, last=True)))[2] == ": nothing new\n\n"


def test_no_more_streams_are_open_than_may_be(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LIMIT", 1)
    seen = [Seen({"job": "1"}), Seen({}, last=True)]

    async def open_two() -> int:
        first = answer(*seen)
        assert isinstance(first, StreamingHttpResponse)
        async for _ in first:
            return answer(*seen).status_code
        return 0

    assert asyncio.run(open_two()) == 503
    assert answer(*seen).status_code == 200


def test_a_server_that_cannot_stream_says_so() -> None:
    assert streams.answer(RequestFactory().get("/jobs/events/"), lambda: Seen({})).status_code == 501


@pytest.mark.django_db(transaction=True)
def test_a_waiting_stream_holds_no_connection() -> None:
    def look() -> Seen:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return Seen({"job": "1"})

    async def is_held_while_it_waits() -> bool:
        response = streams.answer(request, look)
        assert isinstance(response, StreamingHttpResponse)
        parts = aiter(response)
        await anext(parts)
        assert b"event: job" in await anext(parts)
        return await sync_to_async(lambda: connection.connection is not None)()

    assert asyncio.run(is_held_while_it_waits()) is False
