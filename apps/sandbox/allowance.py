"""The supplier's own rate limit: so many requests in a sliding window, then 429 until the oldest is out of it."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable


class Allowance:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: deque[float] = deque()
        self.requests: int | None = None  # None: no limit
        self.seconds = 60.0

    def set(self, requests: int | None, seconds: float = 60.0) -> None:
        with self._lock:
            self.requests, self.seconds = requests, seconds
            self._taken.clear()

    def take(self) -> int:
        """0: go on. Otherwise the whole seconds to wait; a refused request is not counted against the caller."""
        now = self._clock()
        with self._lock:
            while self._taken and self._taken[0] <= now - self.seconds:
                self._taken.popleft()
            if self.requests is None or len(self._taken) < self.requests:
                self._taken.append(now)
                return 0
            freed = self._taken[0] + self.seconds if self._taken else now + self.seconds
            return max(1, math.ceil(freed - now))
