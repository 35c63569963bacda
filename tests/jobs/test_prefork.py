from types import SimpleNamespace

from apps.jobs.prefork import Pool


class Hub:
    def __init__(self) -> None:
        self.watched: list[int] = []

    def add_reader(self, fd: int, *_: object) -> None:
        self.watched.append(fd)


def watched(child: SimpleNamespace) -> list[int]:
    hub = Hub()
    Pool._track_child_process(Pool.__new__(Pool), child, hub)
    return hub.watched


def test_a_child_that_died_while_the_broker_was_away_is_not_watched_again() -> None:
    assert watched(SimpleNamespace(_sentinel_poll=None)) == []


def test_a_living_child_is_watched() -> None:
    assert watched(SimpleNamespace(_sentinel_poll=7)) == [7]
