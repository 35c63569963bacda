"""The types of a call's arguments, where its task's signature names plain ones.

Problem. A message that says `7.9`, `"7"` or `true` where a task takes an id names no row that anybody meant. Django
casts it, and order 7 is charged.

Guarantee. In the worker an argument whose parameter is annotated with `int`, `float`, `str` or `bool` is of that type,
or the job is a dead letter at once. A whole number will do for a `float`; `true` is no number.

Not guaranteed. Other annotations are not looked at, `int | None` among them. Nor is the call of `.delay()`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

# By name, because an annotation may be a text. Exact types: what came as JSON has no others.
PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}


class PlainTypes:
    """What a task's signature says."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.signature = inspect.signature(run)
        named = {name: _name_of_type(parameter) for name, parameter in self.signature.parameters.items()}
        self.expected = {parameter: name for parameter, name in named.items() if name in PLAIN}

    def check(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError. It does not repeat the value, which may be a secret."""
        given = self.signature.bind(*args, **kwargs).arguments
        for parameter, name in self.expected.items():
            if parameter in given and type(given[parameter]) not in PLAIN[name]:
                raise TypeError(f"{parameter} has to be of the type {name}, not {type(given[parameter]).__name__}.")


# Reading a signature takes longer than checking a call.
plain_types = cache(PlainTypes)


def _name_of_type(parameter: inspect.Parameter) -> str:
    """Empty for one that takes any number of arguments, and for `= None`, which says that None will do as well."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.default is None:
        return ""
    annotation = parameter.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
