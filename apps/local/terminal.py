"""What a run says to whoever watches it."""

from contextlib import suppress
from typing import Protocol


class Output(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...


def tell(output: Output, text: str) -> None:
    """Say it at once; nobody hears it if the terminal was closed, which must not keep a run from its good end."""
    with suppress(OSError, ValueError):
        output.write(text)
        output.flush()
