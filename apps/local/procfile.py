"""The Procfile: one process a line, `name: command`. `$NAME` comes from the environment; there is no shell."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Line:
    name: str
    command: str

    def arguments(self, environment: Mapping[str, str]) -> list[str]:
        """Split first and fill in after, so that a value with a space in it stays one argument."""
        return [Template(word).substitute(environment) for word in shlex.split(self.command)]


def read(path: Path) -> list[Line]:
    lines = (line.partition(":") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return [Line(name.strip(), command.strip()) for name, _, command in lines]
