"""The catalogue names things; they have to exist."""

from collections import Counter

import pytest
from celery import current_app
from django.conf import settings

from apps.home.patterns import CHAPTERS, Pattern, find, patterns

every_pattern = pytest.mark.parametrize("pattern", list(patterns()), ids=lambda pattern: pattern.slug)


def test_every_slug_is_used_once() -> None:
    slugs = [chapter.slug for chapter in CHAPTERS] + [pattern.slug for pattern in patterns()]
    assert [slug for slug, count in Counter(slugs).items() if count > 1] == []


def test_a_pattern_is_found_by_its_slug_and_nothing_else_is() -> None:
    assert all(find(pattern.slug) is pattern for pattern in patterns())
    assert find("no-such-pattern") is None


@every_pattern
def test_its_module_is_there_and_its_task_is_registered(pattern: Pattern) -> None:
    assert (settings.BASE_DIR / pattern.module).is_file()
    assert pattern.task in current_app.tasks or pattern.task.startswith("none")


@every_pattern
def test_it_says_each_thing_in_one_sentence(pattern: Pattern) -> None:
    for sentence in (pattern.without, pattern.with_):
        assert sentence.endswith(".")
        assert len(sentence) <= 200
