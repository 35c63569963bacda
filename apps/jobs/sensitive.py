"""Secrets among a job's arguments.

Problem. An argument is written to a row, a message, a log line, a dead letter and Flower.

Guarantee. Arguments that a task names in `sensitive=(…)` are encrypted before the row is written, and decrypted only
for the call itself. Everything that shows arguments shows `***`; errors, events and log lines lose the values before
they are kept (`apps.jobs.redaction`). `.map()`, `.starmap()` and `.chunks()` of such a task are refused.

Not guaranteed. Whoever has SECRET_KEY can decrypt them. A key that was changed makes waiting jobs unreadable, unless
the old one stands in SECRET_KEY_FALLBACKS. A result is kept as the task returned it. A secret of fewer than four
characters stays in an error's text.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from celery import current_app
from celery.utils.saferepr import saferepr
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from kombu.utils.json import dumps, loads

SEALED = "__sealed__"
MASK = "***"
# JSON may be nested deeper than Python lets a function call itself, and such a job runs like any other.
LEVELS = 200
TOO_DEEP = "(nested too deep to be shown)"


@lru_cache
def _box(keys: tuple[str, ...]) -> MultiFernet:
    digests = [hashlib.sha256(b"nightshift.sensitive:" + key.encode()).digest() for key in keys]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])


def _current_box() -> MultiFernet:
    return _box((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


def is_sealed(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {SEALED}


def seal(kwargs: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Encrypt the named arguments. One that is sealed already (a retry, a replay) stays as it is."""
    names = set(names)
    return {name: _seal(value) if name in names else value for name, value in kwargs.items()}


def _seal(value: Any) -> dict[str, str]:
    if is_sealed(value):
        return value  # type: ignore[no-any-return]
    return {SEALED: _current_box().encrypt(dumps(value).encode()).decode()}


def seal_signatures(value: Any) -> Any:
    """The same with each signature's secrets sealed, however deep it lies: what comes after a job is in its row."""
    if isinstance(value, list | tuple):
        return [seal_signatures(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    signature = {name: seal_signatures(inner) for name, inner in value.items()}
    task = value.get("task")
    secret = getattr(current_app.tasks.get(task), "sensitive", ()) if isinstance(task, str) else ()
    if secret:
        # A stranger's may be no signature at all: that is for Celery to find, and not to stop its letter.
        if isinstance(value.get("args"), list | tuple):
            signature["args"] = seal_unnamed(value["args"], secret)
        if isinstance(value.get("kwargs"), dict):
            signature["kwargs"] = seal(value["kwargs"], secret)
    return signature


def seal_unnamed(args: Iterable[Any], names: Iterable[str]) -> list[Any]:
    """Which of them is a secret is known when the task is called. Until then all are sealed, if it has any."""
    return [_seal(argument) for argument in args] if names else list(args)


def comparable(kwargs: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The same with the named arguments in plain: sealed twice, one value looks like two. What our keys cannot open
    stays sealed, and is like nothing else.
    """
    opened = dict(kwargs)
    for name in names:
        if is_sealed(kwargs.get(name)):
            with suppress(InvalidToken):
                opened[name] = _open(kwargs[name])
    return opened


def unseal(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _open(value) if is_sealed(value) else value for name, value in kwargs.items()}


def _open(value: dict[str, str]) -> Any:
    return loads(_current_box().decrypt(value[SEALED].encode()).decode())


def mask(value: Any, levels: int = LEVELS) -> Any:
    """For showing: every sealed value, however deep, becomes `***`."""
    if is_sealed(value):
        return MASK
    if not isinstance(value, dict | list | tuple):
        return value
    if levels == 0:
        return TOO_DEEP
    if isinstance(value, dict):
        return {key: mask(inner, levels - 1) for key, inner in value.items()}
    return [mask(inner, levels - 1) for inner in value]


def masked_repr(arguments: Any) -> str:
    """Masked first, and then cut as Celery does it: it travels in the headers, which RabbitMQ takes in one frame."""
    masked, longest = mask(arguments), current_app.amqp.argsrepr_maxsize
    whole = repr(masked)  # most are short, and Celery's way takes ten times as long
    return whole if len(whole) <= longest else str(saferepr(masked, longest))


def secrets_in(arguments: Iterable[Any]) -> list[str]:
    """The plain text of the sealed ones, to be taken out of error messages. Short ones would mask half the text."""
    plain = [text for value in arguments if is_sealed(value) for text in _texts(_open_if_possible(value))]
    return sorted({text for text in plain if len(text) >= 4}, key=len, reverse=True)


def _open_if_possible(value: dict[str, str]) -> Any:
    """A value that our keys cannot open is in nobody's error message."""
    with suppress(InvalidToken):
        return _open(value)
    return ""


def _texts(value: Any) -> Iterator[str]:
    """The value as text, and each value in it; also as an error writes it that quotes what it was given, or a URL."""
    text = str(value)
    yield from (text, repr(text)[1:-1], dumps(text)[1:-1], quote(text, "", errors="replace"))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        yield from _texts(item)
