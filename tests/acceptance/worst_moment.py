"""Holds a worker just before one step of a charge, so that a test can kill it exactly there; or only takes out the
safeguard that the test names (`--include`).
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from apps.local.chaos import sabotage
from apps.payments import services

# Named by the test, for the worker.
STEP, HELD = "WORST_MOMENT_STEP", "WORST_MOMENT_HELD"


def held_before(step: Callable[..., Any], note: Path) -> Callable[..., Any]:
    """The first process that comes here leaves its number and waits for its end; whoever comes later goes on."""

    def first_held(*args: Any, **kwargs: Any) -> Any:
        with suppress(FileExistsError), note.open("x") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            threading.Event().wait()
        return step(*args, **kwargs)

    return first_held


sabotage.apply()
if STEP in os.environ:
    name = os.environ[STEP]
    setattr(services, name, held_before(getattr(services, name), Path(os.environ[HELD])))
