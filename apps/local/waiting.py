"""Wait for a condition, never for a time."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], seconds: float, *, every: float = 0.02) -> bool:
    """True as soon as the condition holds; False if it still does not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
